import { command } from "./command.ts";
import type { Env } from "./home.ts";
import { moduleOf, PROGRAMS, type ProgramName } from "./modules.ts";

/** Builds one program from its Go module into `file`; at low priority, because it takes all CPUs for minutes. */
export async function goBuild(name: ProgramName, file: string, env: Env): Promise<void> {
  const { dir, version } = moduleOf(name);
  const flags = ["-s", "-w", ...(PROGRAMS[name].module === "kubernetes" ? stamp(version) : [])];
  const args = [
    "build",
    "-trimpath",
    "-buildvcs=false",
    "-ldflags",
    flags.join(" "),
    "-o",
    file,
    PROGRAMS[name].package,
  ];
  await command("nice", ["-n", "15", "go", ...args], { cwd: dir, env: { ...env, CGO_ENABLED: "0" } });
}

/** Without these the programs call themselves v0.0.0, to each other too. */
function stamp(version: string): string[] {
  const [major, minor] = version.split(".");
  const set = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  const packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
  return packages.flatMap((name) => Object.entries(set).map(([key, value]) => `-X ${name}.${key}=${value}`));
}

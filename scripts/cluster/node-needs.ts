import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { command } from "./command.ts";
import type { Env } from "./home.ts";

/** Where Debian's package puts the CNI plugins. */
export const CNI_PLUGINS = "/usr/lib/cni";

/** Runs the command that follows as process 1 of namespaces of its own. */
export const NEW_SPACES = [
  "unshare",
  ...["--mount", "--net", "--pid", "--ipc", "--uts", "--propagation", "slave", "--fork", "--kill-child"],
] as const;

/** A file that must be there, on the PATH unless a full path, and the Debian package that brings it. */
const PARTS: readonly [file: string, debianPackage: string][] = [
  ["containerd", "containerd"],
  ["runc", "runc"],
  [join(CNI_PLUGINS, "ptp"), "containernetworking-plugins"],
  ["nft", "nftables"],
  ["ip", "iproute2"],
  ["buildah", "buildah"],
];

/** The line that makes the tests of a real node run. */
const ENABLE = "run as root on Linux with LLMPOOL_TEST_NODE=1";

/** Undefined when a real node is wanted and can run here; else why not, and the line that enables it. */
export function whyNoNode(env: Env): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return ENABLE;
  if (!env.CI && env.LLMPOOL_TEST_NODE !== "1") return ENABLE;
  try {
    const [file, ...args] = [...NEW_SPACES, "true"];
    execFileSync(file, args, { stdio: "ignore" });
  } catch {
    return `${ENABLE}, outside a container or in a privileged one: this one may not make namespaces`;
  }
  const missing = missingPackages(env);
  if (missing.length > 0 && !onPath("apt-get", env)) return `${ENABLE}, after installing ${missing.join(", ")}`;
  return undefined;
}

/** Installs what a node needs and this machine lacks. */
export async function installParts(env: Env, say: (line: string) => void): Promise<void> {
  const packages = missingPackages(env);
  if (packages.length === 0) return;
  say(`installing Debian packages for the node: ${packages.join(" ")}`);
  const quiet = { env: { ...env, DEBIAN_FRONTEND: "noninteractive" } };
  const wait = ["-o", "DPkg::Lock::Timeout=300", "-qq"];
  await command("apt-get", [...wait, "update"], quiet);
  await command("apt-get", [...wait, "install", "-y", "--no-install-recommends", ...packages], quiet);
}

function missingPackages(env: Env): string[] {
  return PARTS.filter(([file]) => !onPath(file, env)).map(([, debianPackage]) => debianPackage);
}

function onPath(file: string, env: Env): boolean {
  if (file.startsWith("/")) return existsSync(file);
  return (env.PATH ?? "").split(delimiter).some((dir) => existsSync(join(dir, file)));
}

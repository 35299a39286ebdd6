import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultCacheDir } from "../../src/models/cache-dir.ts";

export interface Verdict {
  unknown: string[];
  problems: { type: string; field: string; detail: string }[];
  object: Record<string, unknown>;
}

export interface Judgement {
  crd: Verdict["problems"];
  objects: Verdict[];
}

const source = join(dirname(dirname(fileURLToPath(import.meta.url))), "crd-validator");

/** Whether there is a Go toolchain to build the validator with. */
export const hasGo = (process.env.PATH ?? "").split(delimiter).some((dir) => existsSync(join(dir, "go")));

/** Builds test/crd-validator once for its sources, into the cache of this user, and returns the program's path. */
export async function buildValidator(): Promise<string> {
  const hash = createHash("sha256");
  for (const file of ["main.go", "go.mod", "go.sum"]) hash.update(await readFile(join(source, file)));
  const dir = join(dirname(defaultCacheDir(process.env, process.platform, homedir())), "tools");
  const program = join(dir, `crd-validator-${hash.digest("hex").slice(0, 16)}`);
  if (existsSync(program)) return program;
  console.log("building Kubernetes' CRD validator, once (some minutes)");
  await mkdir(dir, { recursive: true });
  const made = `${program}.${process.pid}`;
  await run("go", ["build", "-trimpath", "-ldflags", "-s -w", "-o", made, "."], "", source);
  await rename(made, program);
  return program;
}

/** What Kubernetes says of a CRD file, and of objects under it. */
export async function judge(program: string, crd: string, objects: readonly unknown[]): Promise<Judgement> {
  return JSON.parse(await run(program, [crd], JSON.stringify(objects))) as Judgement;
}

function run(command: string, args: string[], input: string, cwd?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      ...(cwd !== undefined && { cwd }),
      env: { ...process.env, CGO_ENABLED: "0" },
    });
    let out = "";
    let err = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      out += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      err += text;
    });
    child.on("error", reject);
    child.on("close", (code) =>
      code === 0 ? resolve(out) : reject(new Error(`${command} ended with ${code}: ${err}`)),
    );
    child.stdin.on("error", () => {}); // the exit code says it better
    child.stdin.end(input);
  });
}

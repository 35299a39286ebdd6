import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { InstanceConfig } from "../api/instance.ts";
import { pythonOf } from "./python.ts";

/** The program of an instance process: the sibling of this file, as source or as built. */
export function runtimeEntry(): string {
  const here = import.meta.url;
  return fileURLToPath(new URL(`../../runtime-image/main${extname(here)}`, here));
}

/** What runs an instance of this backend, `entry` in this Node or Python, and what it finds in its environment besides. */
export function programOf(
  backend: InstanceConfig["backend"],
  entry: string,
  env: Readonly<Record<string, string | undefined>>,
): { command: readonly [string, ...string[]]; env: Record<string, string> } {
  if (backend !== "hf-cuda") return { command: [process.execPath, entry], env: {} };
  const { file, env: own } = pythonOf(env);
  return { command: [file, "-m", "llmpool_hf_cuda"], env: own };
}

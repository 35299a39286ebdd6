import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { InstanceConfig } from "../api/instance.ts";

/** The program of an instance process: the sibling of this file, as source or as built. */
export function runtimeEntry(): string {
  const here = import.meta.url;
  return fileURLToPath(new URL(`../../runtime-image/main${extname(here)}`, here));
}

/** What runs an instance of this backend: `entry` in this Node, or the Python on the PATH, which the hf-cuda image has. */
export function programOf(backend: InstanceConfig["backend"], entry: string): readonly [string, ...string[]] {
  return backend === "hf-cuda" ? ["python", "-m", "llmpool_hf_cuda"] : [process.execPath, entry];
}

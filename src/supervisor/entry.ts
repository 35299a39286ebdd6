import { extname } from "node:path";
import { fileURLToPath } from "node:url";

/** The program of an instance process: the sibling of this file, as source or as built. */
export function runtimeEntry(): string {
  const here = import.meta.url;
  return fileURLToPath(new URL(`../../runtime-image/main${extname(here)}`, here));
}

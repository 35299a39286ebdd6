import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The Python package beside these sources. An image and an environment with the package installed have none there. */
const PACKAGE = fileURLToPath(new URL("../../runtime-image/hf-cuda/src", import.meta.url));

/** Python for hf-cuda: `LLMPOOL_PYTHON`, else `python` on the PATH, as the image and an activated virtual environment have it. */
export function pythonOf(env: Readonly<Record<string, string | undefined>>): {
  file: string;
  env: Record<string, string>;
} {
  return { file: env.LLMPOOL_PYTHON || "python", env: existsSync(PACKAGE) ? { PYTHONPATH: PACKAGE } : {} };
}

import { readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Program } from "../conformance/process.ts";

const SOURCE = fileURLToPath(new URL("../../runtime-image/hf-cuda/src", import.meta.url));

/**
 * Fills `dir` with the same model, `float32` in its configuration. The conformance suite compares answers of one prompt, whose rounding in
 * bfloat16 depends on how it was cut into chunks, and that on time.
 */
export async function inFloat32(folder: string, dir: string): Promise<void> {
  for (const name of await readdir(folder))
    if (name !== "config.json") await symlink(join(folder, name), join(dir, name));
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8")) as object;
  await writeFile(join(dir, "config.json"), JSON.stringify({ ...config, dtype: "float32" }));
}

/** What `npm test -- hf-cuda` has set up, as it says in `LLMPOOL_TEST_HF_CUDA`: a folder with `venv` and `models`. Throws without. */
export function hfCuda(): { program: Program; smol: string; tiny: string } {
  const home = process.env.LLMPOOL_TEST_HF_CUDA;
  if (home === undefined) throw new Error("these tests run with: npm test -- hf-cuda");
  return {
    program: {
      command: [join(home, "venv/bin/python"), "-m", "llmpool_hf_cuda"],
      env: {
        PYTHONPATH: SOURCE,
        HF_HUB_OFFLINE: "1",
        // `npm run test:gpu` runs the same tests on a card.
        ...(process.env.LLMPOOL_TEST_GPU === undefined && { CUDA_VISIBLE_DEVICES: "" }),
      },
    },
    smol: join(home, "models/smollm2-135m-instruct"),
    tiny: join(home, "models/tiny-llama"),
  };
}

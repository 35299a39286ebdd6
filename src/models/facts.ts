import { stat } from "node:fs/promises";
import { relative } from "node:path";
import type { ModelFacts } from "../api/model-facts.ts";
import type { ResolvedModel } from "./context.ts";
import { openGguf, readHeader, sizesOf } from "./gguf-file.ts";
import { readKvSizes, readSafetensors } from "./safetensors.ts";

/** What a model that lies in `cacheDir` is and takes. Rejects with StartError `ModelInvalid` when its files cannot be read as what they are. */
export async function factsOf({ path, bytes, sha256 }: ResolvedModel, cacheDir: string): Promise<ModelFacts> {
  const common = { path: relative(cacheDir, path), bytes, ...(sha256 !== undefined && { sha256 }) };
  if ((await stat(path)).isDirectory())
    return { ...common, format: "safetensors", ...(await readKvSizes(path)), ...(await readSafetensors(path)) };
  if (!path.endsWith(".gguf")) return { ...common, format: "other" };
  const file = await openGguf(path);
  try {
    const { header } = await readHeader(file, path, (await file.stat()).size);
    return { ...common, format: "gguf", ...sizesOf(header.metadata) };
  } finally {
    await file.close();
  }
}

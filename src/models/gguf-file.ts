import { type FileHandle, open } from "node:fs/promises";
import { StartError } from "../api/instance.ts";
import { type GgufHeader, HeaderIncomplete, HeaderInvalid, type MetadataValue, parseHeader } from "./gguf.ts";

const FIRST_READ = 4 * 2 ** 20;
const LARGEST_HEADER = 512 * 2 ** 20;
export const FETCH_AGAIN = "fetch the model again";

/** Throws StartError `ModelNotFound` or `ModelInvalid`, with the cure. */
export async function openGguf(path: string): Promise<FileHandle> {
  try {
    const file = await open(path, "r");
    const info = await file.stat();
    if (info.isFile()) return file;
    await file.close();
    throw invalid(path, `it is ${info.isDirectory() ? "a folder: name the .gguf file in it" : "not a plain file"}`);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR")
      throw new StartError("ModelNotFound", `there is no model file ${path}`);
    if (code === "EACCES" || code === "EPERM") {
      throw new StartError("ModelNotFound", `the model file ${path} may not be read (${code}): change its permissions`);
    }
    throw error;
  }
}

/** The header, and the bytes that it was read from. Throws StartError `ModelInvalid`, which says what the file is instead where that can be told. */
export async function readHeader(
  file: FileHandle,
  path: string,
  size: number,
): Promise<{ header: GgufHeader; raw: Buffer }> {
  for (let want = FIRST_READ; ; want *= 4) {
    const raw = await readAt(file, 0, Math.min(want, size));
    try {
      return { header: parseHeader(raw), raw };
    } catch (error) {
      if (error instanceof HeaderInvalid) throw invalid(path, describe(raw) ?? error.message);
      if (!(error instanceof HeaderIncomplete)) throw error;
      if (raw.length < want) throw invalid(path, describe(raw) ?? `it is cut off in its header: ${FETCH_AGAIN}`);
      if (want >= LARGEST_HEADER) throw invalid(path, `its header is damaged: ${FETCH_AGAIN}`);
    }
  }
}

/** What else the file is, if that can be told. */
function describe(raw: Buffer): string | undefined {
  const start = raw.subarray(0, 64).toString("latin1");
  if (raw.length === 0) return `it is empty: ${FETCH_AGAIN}`;
  if (start.startsWith("version https://git-lfs"))
    return "it is a Git LFS pointer: fetch the file itself (git lfs pull)";
  if (/^\s*<(!doctype|html|\?xml)/i.test(start)) return `it is a web page: check the address and ${FETCH_AGAIN}`;
  if (start.startsWith("PK\x03\x04"))
    return "it is a ZIP archive (a wheel or a PyTorch file): give the .gguf file in it";
  if (/^.{8}\{"/s.test(start)) return "it is a safetensors file: convert it to GGUF";
  return start.startsWith("GGUF") ? undefined : "it is not a GGUF file";
}

/** What the KV cache is made of. `kvHeads` and `headSize` are those of one layer, the mean where layers differ. */
export interface KvSizes {
  layers: number;
  kvHeads: number;
  headSize: number;
  /** Of one token, at 16 bit. */
  kvBytesPerToken: number;
}

/** Undefined for architectures whose metadata does not tell. */
export function sizesOf(metadata: ReadonlyMap<string, MetadataValue>): KvSizes | undefined {
  const architecture = String(metadata.get("general.architecture"));
  const get = (key: string) => metadata.get(`${architecture}.${key}`);
  const layers = Number(get("block_count"));
  const heads = get("attention.head_count");
  const perLayer = get("attention.head_count_kv") ?? heads;
  const evenly = Number(get("embedding_length")) / Number(Array.isArray(heads) ? heads[0] : heads);
  const key = Number(get("attention.key_length") ?? evenly);
  const value = Number(get("attention.value_length") ?? evenly);
  const allHeads = Array.isArray(perLayer)
    ? perLayer.reduce((sum: number, n) => sum + Number(n), 0)
    : layers * Number(perLayer);
  const kvBytesPerToken = allHeads * (key + value) * 2;
  if (!(Number.isFinite(kvBytesPerToken) && kvBytesPerToken > 0)) return undefined;
  return { layers, kvHeads: allHeads / layers, headSize: (key + value) / 2, kvBytesPerToken };
}

export async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let got = 0;
  while (got < length) {
    const { bytesRead } = await file.read(buffer, got, length - got, position + got);
    if (bytesRead === 0) break;
    got += bytesRead;
  }
  return buffer.subarray(0, got);
}

/** For failures of the native loader too. */
export function invalid(path: string, why: string, cause?: unknown): StartError {
  return new StartError(
    "ModelInvalid",
    `the model file ${path} cannot be used: ${why}`,
    cause === undefined ? {} : { cause },
  );
}

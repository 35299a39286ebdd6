import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";

/**
 * A saved KV cache: what the engine wrote, and behind it a trailer that says whose it is and proves that it is whole. Behind and not in
 * front, because the engine reads its part from the file's first byte and ignores what follows.
 *
 * Trailer, little-endian: compatibility key (32 bytes), length of the engine's part (u64), version (u32), SHA-256 of everything before
 * it (32 bytes), magic (8 bytes).
 */
const MAGIC = Buffer.from("LLMPKV\r\n", "latin1");
const VERSION = 1;
const TRAILER_BYTES = 32 + 8 + 4 + 32 + MAGIC.length;
const SUM_AT = 32 + 8 + 4;

/** Why a file is not taken; it says nothing about the content. */
export type StateProblem = "damaged" | "from another model or layout";

/** Everything that the engine's part depends on, as one hash. */
export function compatibilityKey(parts: Readonly<Record<string, string | number | boolean>>): Buffer {
  const sorted = Object.entries(parts).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(sorted)).digest();
}

/** Ends a file that the engine just wrote, and flushes it. Returns its size in bytes. */
export async function seal(path: string, key: Buffer): Promise<number> {
  const file = await open(path, "r+");
  try {
    const { size } = await file.stat();
    const head = Buffer.alloc(SUM_AT);
    key.copy(head, 0);
    head.writeBigUInt64LE(BigInt(size), 32);
    head.writeUInt32LE(VERSION, 40);
    const sum = (await hashOf(path, size)).update(head).digest();
    await file.write(Buffer.concat([head, sum, MAGIC]), 0, TRAILER_BYTES, size);
    await file.sync();
    return size + TRAILER_BYTES;
  } finally {
    await file.close();
  }
}

/** Checks a whole file against the key. Undefined when the engine may load it. */
export async function problemOf(path: string, key: Buffer): Promise<StateProblem | undefined> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const trailer = Buffer.alloc(TRAILER_BYTES);
    const { bytesRead } = await file.read(trailer, 0, TRAILER_BYTES, Math.max(0, size - TRAILER_BYTES));
    const length = size - TRAILER_BYTES;
    if (bytesRead < TRAILER_BYTES || !trailer.subarray(-MAGIC.length).equals(MAGIC)) return "damaged";
    if (trailer.readBigUInt64LE(32) !== BigInt(length)) return "damaged";
    const sum = (await hashOf(path, length)).update(trailer.subarray(0, SUM_AT)).digest();
    if (!sum.equals(trailer.subarray(SUM_AT, SUM_AT + 32))) return "damaged";
    const ours = trailer.readUInt32LE(40) === VERSION && trailer.subarray(0, 32).equals(key);
    return ours ? undefined : "from another model or layout";
  } finally {
    await file.close();
  }
}

async function hashOf(path: string, length: number): Promise<Hash> {
  const hash = createHash("sha256");
  if (length === 0) return hash;
  for await (const chunk of createReadStream(path, { end: length - 1, highWaterMark: 2 ** 20 })) hash.update(chunk);
  return hash;
}

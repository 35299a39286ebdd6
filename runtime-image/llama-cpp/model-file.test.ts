import { randomBytes } from "node:crypto";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeGguf } from "../../test/support/gguf.ts";
import { readModelFile } from "./model-file.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "llmpool-model-"));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function write(bytes: Buffer): Promise<string> {
  const path = join(dir, `${randomBytes(6).toString("hex")}.gguf`);
  await writeFile(path, bytes);
  return path;
}

const whole = makeGguf();
const edited = (edit: (copy: Buffer) => void): Buffer => {
  const copy = Buffer.from(whole);
  edit(copy);
  return copy;
};

describe("readModelFile", () => {
  it("tells what the runtime needs", async () => {
    expect(await readModelFile(await write(whole))).toMatchObject({
      bytes: whole.length,
      chatTemplate: "{{ messages[0].content }}",
      controlTokens: new Set(["<|im_start|>", "<|im_end|>"]),
      // 2 layers x 2 KV heads x (4 + 4) x 2 bytes
      kvBytesPerToken: 64,
      longestTokenBytes: 12,
    });
  });

  it("names content by its digest, wherever the file lies", async () => {
    const [a, b, c] = await Promise.all(
      [whole, whole, edited((copy) => copy.writeUInt8(7, copy.length - 1))].map(async (bytes) =>
        readModelFile(await write(bytes)),
      ),
    );
    expect(a?.digest).toBe(b?.digest);
    expect(a?.digest).not.toBe(c?.digest);
  });

  const end = whole.length;
  it.each([
    { name: "an empty file", bytes: Buffer.alloc(0), words: "it is empty" },
    { name: "random bytes", bytes: randomBytes(5000), words: "it is not a GGUF file" },
    { name: "one byte", bytes: Buffer.from("G"), words: "not a GGUF file" },
    { name: "a web page", bytes: Buffer.from("<!DOCTYPE html><html></html>"), words: "web page" },
    {
      name: "a Git LFS pointer",
      bytes: Buffer.from("version https://git-lfs.github.com/spec/v1\n"),
      words: "Git LFS pointer",
    },
    { name: "an archive", bytes: Buffer.concat([Buffer.from("PK\x03\x04"), randomBytes(300)]), words: "ZIP archive" },
    { name: "safetensors", bytes: Buffer.from('\x40\0\0\0\0\0\0\0{"__metadata__":{}}'), words: "safetensors" },
    { name: "an old version", bytes: edited((copy) => copy.writeUInt32LE(1, 4)), words: "GGUF version 1" },
    { name: "a big-endian file", bytes: edited((copy) => copy.writeUInt32BE(3, 4)), words: "big-endian" },
    { name: "only a magic", bytes: whole.subarray(0, 4), words: "cut off in its header" },
    { name: "half a header", bytes: whole.subarray(0, 200), words: "cut off in its header" },
    { name: "a header without data", bytes: whole.subarray(0, end - 256), words: "cut off" },
    { name: "one byte less", bytes: whole.subarray(0, end - 1), words: "cut off" },
    { name: "a huge count of tensors", bytes: edited((copy) => copy.writeBigUInt64LE(2n ** 40n, 8)), words: "tensors" },
    { name: "a huge count of keys", bytes: edited((copy) => copy.writeBigUInt64LE(2n ** 63n, 16)), words: "damaged" },
    {
      name: "a key longer than the file",
      bytes: edited((copy) => copy.writeBigUInt64LE(1000n, 24)),
      words: "cannot be used",
    },
    { name: "no tensors", bytes: makeGguf({ tensors: 0 }), words: "no tensors" },
    { name: "no tokenizer", bytes: makeGguf({ tokenizer: false }), words: "no tokenizer" },
    { name: "no layers", bytes: makeGguf({ layers: 0 }), words: "0 layers" },
    { name: "too many layers", bytes: makeGguf({ layers: 2 ** 32 - 1 }), words: "4294967295 layers" },
    { name: "no architecture", bytes: makeGguf({ architecture: false }), words: "architecture" },
  ])("refuses $name in words", async ({ bytes, words }) => {
    await expect(readModelFile(await write(bytes))).rejects.toMatchObject({
      name: "StartError",
      reason: "ModelInvalid",
      message: expect.stringContaining(words),
    });
  });

  it("ends for a header with any byte flipped: accepted or refused in words", async () => {
    const header = end - 256;
    for (let at = 0; at < header; at += 3) {
      const path = await write(edited((copy) => copy.writeUInt8(copy.readUInt8(at) ^ 0xff, at)));
      const outcome = await readModelFile(path).then(
        () => "accepted",
        (error: Error) => error.name,
      );
      expect(["accepted", "StartError"]).toContain(outcome);
      await rm(path);
    }
  });

  it("tells a missing, an unreadable and a wrong kind of path apart", async () => {
    const folder = join(dir, "folder");
    await mkdir(folder);
    await expect(readModelFile(join(dir, "none.gguf"))).rejects.toMatchObject({ reason: "ModelNotFound" });
    await expect(readModelFile(folder)).rejects.toMatchObject({
      reason: "ModelInvalid",
      message: expect.stringContaining("folder"),
    });
    if (process.getuid?.() === 0) return; // root may read everything
    const secret = await write(whole);
    await chmod(secret, 0);
    await expect(readModelFile(secret)).rejects.toMatchObject({
      reason: "ModelNotFound",
      message: expect.stringContaining("permissions"),
    });
  });
});

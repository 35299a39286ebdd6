import { mkdir, readdir, readFile, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { file, redirect, status } from "../../test/support/fake-web.ts";
import { fakeModel, fakeWeb, resolveOptions, sha256 } from "../../test/support/resolve.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import type { DownloadProgress } from "./progress.ts";
import { resolveModel } from "./resolve.ts";
import { MAX_TRIES } from "./retry.ts";

const content = fakeModel(300_000);

async function allFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile() && !entry.parentPath.endsWith("/locks")).map((entry) => entry.name);
}

async function partSize(folder: string): Promise<number | undefined> {
  const name = (await readdir(folder, { recursive: true })).find((path) => path.endsWith(".part"));
  return name === undefined ? undefined : (await stat(join(folder, name))).size;
}

test("downloads once, then serves from the cache without the network", async () => {
  const web = await fakeWeb();
  web.on("/m.gguf", file(content));
  const options = resolveOptions(await tempDir(), { sha256: sha256(content).toUpperCase() });
  const uri = web.url("/m.gguf");
  const model = await resolveModel(uri, options);
  expect(model).toMatchObject({ sha256: sha256(content), bytes: content.length });
  expect(await readFile(model.path)).toEqual(content);
  await web.close();
  expect(await resolveModel(uri, options)).toEqual(model);
  expect(web.seen).toHaveLength(1);
  expect((await allFiles(options.cacheDir)).sort()).toEqual(["m.gguf", "m.gguf.llmpool"]);
});

test("a cached file that lost bytes is fetched again", async () => {
  const web = await fakeWeb();
  web.on("/m.gguf", file(content));
  const options = resolveOptions(await tempDir());
  const { path } = await resolveModel(web.url("/m.gguf"), options);
  await truncate(path, 1000);
  await resolveModel(web.url("/m.gguf"), options);
  expect(await readFile(path)).toEqual(content);
});

test("a changed sha256 in the spec fetches the file again", async () => {
  const web = await fakeWeb();
  const newer = fakeModel(300_000, "b");
  web.on("/m.gguf", file(content), file(newer));
  const cacheDir = await tempDir();
  await resolveModel(web.url("/m.gguf"), resolveOptions(cacheDir));
  const model = await resolveModel(web.url("/m.gguf"), resolveOptions(cacheDir, { sha256: sha256(newer) }));
  expect(await readFile(model.path)).toEqual(newer);
});

describe("goes on after", () => {
  test("a cut, where it stopped, with the ETag as condition", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { etag: '"v1"', cutAfter: 100_000 }), file(content, { etag: '"v1"' }));
    const model = await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
    expect(await readFile(model.path)).toEqual(content);
    expect(web.seen.map(({ headers }) => [headers.range, headers["if-range"]])).toEqual([
      [undefined, undefined],
      ["bytes=100000-", '"v1"'],
    ]);
  });

  test("many cuts, as long as each try brings something", async () => {
    const web = await fakeWeb();
    const cuts = Array.from({ length: 2 * MAX_TRIES }, () => file(content, { etag: '"v1"', cutAfter: 20_000 }));
    web.on("/m.gguf", ...cuts, file(content, { etag: '"v1"' }));
    const model = await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
    expect(await readFile(model.path)).toEqual(content);
  });

  test("a cut in an earlier call, at the byte where that one stopped", async () => {
    const web = await fakeWeb();
    const cacheDir = await tempDir();
    web.on("/m.gguf", file(content, { etag: '"v1"', cutAfter: 100_000 }), status(500));
    await expect(resolveModel(web.url("/m.gguf"), resolveOptions(cacheDir))).rejects.toThrow(
      "what was fetched is kept",
    );
    web.on("/m.gguf", file(content, { etag: '"v1"' }));
    const seen: DownloadProgress[] = [];
    const onProgress = (progress: DownloadProgress) => void seen.push(progress);
    const model = await resolveModel(web.url("/m.gguf"), resolveOptions(cacheDir, { onProgress }));
    expect(await readFile(model.path)).toEqual(content);
    expect(web.seen.at(-1)?.headers.range).toBe("bytes=100000-");
    expect(seen[0]).toMatchObject({ bytes: 100_000, total: 300_000, bytesPerSecond: 0, waiting: false });
    expect(seen.at(-1)).toMatchObject({ bytes: 300_000, total: 300_000 });
  });

  test("a stall", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { etag: '"v1"', stallAfter: 100_000 }), file(content, { etag: '"v1"' }));
    const options = resolveOptions(await tempDir());
    const done = resolveModel(web.url("/m.gguf"), options);
    await eventually("the first bytes", async () => (await partSize(options.cacheDir)) === 100_000);
    options.clock.expire();
    expect(await readFile((await done).path)).toEqual(content);
    expect(web.seen[1]?.headers.range).toBe("bytes=100000-");
  });

  test("busy answers, no sooner than the server asks", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", status(503, { "retry-after": "7" }), status(429), file(content));
    const options = resolveOptions(await tempDir());
    await resolveModel(web.url("/m.gguf"), options);
    expect(options.clock.waits).toEqual([7000, 750]);
  });
});

describe("starts anew when", () => {
  test("the file changed in between", async () => {
    const web = await fakeWeb();
    const newer = fakeModel(200_000, "b");
    web.on("/m.gguf", file(content, { etag: '"v1"', cutAfter: 100_000 }), file(newer, { etag: '"v2"' }));
    const model = await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
    expect(await readFile(model.path)).toEqual(newer);
  });

  test("the server does not know ranges", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { etag: '"v1"', cutAfter: 100_000 }), file(content, { noRange: true }));
    const model = await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
    expect(await readFile(model.path)).toEqual(content);
  });

  test("nothing could tell whether the file is the same", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { cutAfter: 100_000 }), file(content));
    await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
    expect(web.seen[1]?.headers.range).toBeUndefined();
  });

  test("the bytes of an earlier try turn out to be of something else", async () => {
    const web = await fakeWeb();
    const other = fakeModel(300_000, "b");
    const cacheDir = await tempDir();
    web.on("/m.gguf", file(other, { cutAfter: 100_000 }), status(500));
    const options = () => resolveOptions(cacheDir, { sha256: sha256(content) });
    await expect(resolveModel(web.url("/m.gguf"), options())).rejects.toThrow();
    web.on("/m.gguf", file(content));
    const model = await resolveModel(web.url("/m.gguf"), options());
    expect(await readFile(model.path)).toEqual(content);
    expect(web.seen.slice(-2).map(({ headers }) => headers.range)).toEqual(["bytes=100000-", undefined]);
  });

  test.each(["bytes 0-9/300000", "bytes 100000-100009/400000", "nonsense"])(
    "the server answers another range: %s",
    async (range) => {
      const web = await fakeWeb();
      const wrong = status(206, { "content-range": range, etag: '"v1"' });
      web.on("/m.gguf", file(content, { etag: '"v1"', cutAfter: 100_000 }), wrong, file(content));
      const model = await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
      expect(await readFile(model.path)).toEqual(content);
      expect(web.seen.map((request) => request.headers.range)).toEqual([undefined, "bytes=100000-", undefined]);
    },
  );

  test("the server says that the range is past the end", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { etag: '"v1"', cutAfter: 100_000 }), status(416), file(content));
    const model = await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()));
    expect(await readFile(model.path)).toEqual(content);
  });
});

describe("refuses", () => {
  test.each([
    {
      name: "a wrong sha256",
      answer: file(content),
      reason: "ModelInvalid",
      message: "was promised",
      sum: "0".repeat(64),
    },
    { name: "what does not exist", answer: status(404), reason: "ModelNotFound", message: "does not exist" },
    {
      name: "denied access",
      answer: status(401),
      reason: "ModelDownloadFailed",
      message: "https://user:password@host",
    },
    { name: "denied access (403)", answer: status(403), reason: "ModelDownloadFailed", message: "is denied" },
    { name: "a lasting 5xx", answer: status(502), reason: "ModelDownloadFailed", message: "answers 502 (5 tries)" },
    { name: "an odd status", answer: status(418), reason: "ModelDownloadFailed", message: "answers 418" },
    {
      name: "a body always shorter than it says",
      answer: file(content, { sayLength: 400_000 }),
      reason: "ModelDownloadFailed",
      message: "5 tries",
    },
    {
      name: "a page in place of a model",
      answer: file(Buffer.from("<!doctype html>log in")),
      reason: "ModelInvalid",
      message: "no GGUF file",
    },
    {
      name: "compressed bytes",
      answer: status(200, { "content-encoding": "gzip" }),
      reason: "ModelDownloadFailed",
      message: "compressed",
    },
    {
      name: "a redirect to plain http",
      answer: redirect("http://example.invalid/m"),
      reason: "ModelDownloadFailed",
      message: "not followed",
    },
    {
      name: "a redirect to a file",
      answer: redirect("file:///etc/passwd"),
      reason: "ModelDownloadFailed",
      message: "not followed",
    },
    {
      name: "an endless redirect",
      answer: redirect("/m.gguf"),
      reason: "ModelDownloadFailed",
      message: "more than 10 times",
    },
  ])("$name", async ({ answer, reason, message, sum }) => {
    const web = await fakeWeb();
    web.on("/m.gguf", answer);
    const options = resolveOptions(await tempDir(), { sha256: sum });
    const done = resolveModel(web.url("/m.gguf"), options);
    await expect(done).rejects.toThrow(message);
    await expect(done).rejects.toMatchObject({ reason });
    expect((await allFiles(options.cacheDir)).filter((name) => name.endsWith(".gguf"))).toEqual([]);
  });

  test("a file that cannot fit on the disk, before it fetches it", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { sayLength: 2 ** 53 - 1, stallAfter: 1000 }));
    await expect(resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()))).rejects.toThrow("GiB are needed");
  });

  test.runIf(process.platform === "linux")("to go on when the disk is full", async () => {
    const web = await fakeWeb();
    web.on("/m.gguf", file(content, { chunked: true }));
    const options = resolveOptions(await tempDir());
    const { path } = await resolveModel(web.url("/m.gguf"), { ...options, cacheDir: await tempDir() });
    const folder = join(options.cacheDir, "https", dirname(path).split("/").at(-1) ?? "");
    await mkdir(folder, { recursive: true });
    await symlink("/dev/full", join(folder, "m.gguf.part"));
    await expect(resolveModel(web.url("/m.gguf"), options)).rejects.toThrow(/disk .* is full: free space/);
  });

  test("a cache folder that is no folder, with the variable that moves it", async () => {
    const web = await fakeWeb();
    const path = join(await tempDir(), "file");
    await writeFile(path, "");
    await expect(resolveModel(web.url("/m.gguf"), resolveOptions(path))).rejects.toThrow("LLMPOOL_CACHE");
  });
});

test("without a network there is one clear message", async () => {
  const web = await fakeWeb();
  const uri = web.url("/m.gguf");
  await web.close();
  const done = resolveModel(uri, resolveOptions(await tempDir()));
  await expect(done).rejects.toThrow(/refuses the connection \(5 tries\); check network and proxy/);
  await expect(done).rejects.toMatchObject({ reason: "ModelDownloadFailed" });
});

test("takes a body without a length, to its end", async () => {
  const web = await fakeWeb();
  web.on("/m.gguf", file(content, { chunked: true }));
  expect(await resolveModel(web.url("/m.gguf"), resolveOptions(await tempDir()))).toMatchObject({ bytes: 300_000 });
});

test("sends the URL's password to its own host, not on to another, and never into a message", async () => {
  const web = await fakeWeb();
  web.on("/m.gguf", redirect(web.url("/file.gguf", "localhost")));
  web.on("/file.gguf", redirect(web.url("/back.gguf")));
  web.on("/back.gguf", status(403));
  const uri = web.url("/m.gguf").replace("http://", "http://me:secret@");
  const error: unknown = await resolveModel(uri, resolveOptions(await tempDir())).catch((e: unknown) => e);
  expect(web.seen.map(({ headers }) => headers.authorization)).toEqual([
    `Basic ${Buffer.from("me:secret").toString("base64")}`,
    undefined,
    undefined,
  ]);
  expect(String(error)).not.toContain("secret");
});

test("keeps the password across a redirect on the same host", async () => {
  const web = await fakeWeb();
  web.on("/m.gguf", redirect("/file.gguf"));
  web.on("/file.gguf", file(content));
  await resolveModel(web.url("/m.gguf").replace("http://", "http://me:secret@"), resolveOptions(await tempDir()));
  expect(web.seen[1]?.headers.authorization).toBeDefined();
});

test("an abort ends a download at once with the signal's reason, and what was fetched is kept", async () => {
  const web = await fakeWeb();
  web.on("/m.gguf", file(content, { etag: '"v1"', stallAfter: 100_000 }));
  const abort = new AbortController();
  const options = resolveOptions(await tempDir(), { signal: abort.signal });
  const done = resolveModel(web.url("/m.gguf"), options);
  await eventually("the first bytes", async () => (await partSize(options.cacheDir)) === 100_000);
  const reason = new Error("stop");
  abort.abort(reason);
  await expect(done).rejects.toBe(reason);
  expect(await allFiles(options.cacheDir)).toContain("m.gguf.part");
});

test("two calls at once download once, and the one that waits reports the other's progress", async () => {
  const web = await fakeWeb();
  let release = () => {};
  web.on("/m.gguf", (_, response) => {
    response.writeHead(200, { "content-length": content.length, etag: '"v1"' });
    response.write(content.subarray(0, 100_000));
    release = () => void response.end(content.subarray(100_000));
  });
  const cacheDir = await tempDir();
  const seen: DownloadProgress[] = [];
  const options = () => resolveOptions(cacheDir, { onProgress: (progress) => void seen.push(progress) });
  const both = [resolveModel(web.url("/m.gguf"), options()), resolveModel(web.url("/m.gguf"), options())];
  await eventually("the second to wait", () =>
    seen.some((p) => p.waiting && p.bytes === 100_000 && p.total === 300_000),
  );
  release();
  const [first, second] = await Promise.all(both);
  expect(second).toEqual(first);
  expect(web.seen).toHaveLength(1);
});

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { filePath, serveRepo } from "../../test/support/fake-hub.ts";
import { file, json, status } from "../../test/support/fake-web.ts";
import { fakeModel, fakeWeb, resolveOptions, sha256 } from "../../test/support/resolve.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import type { DownloadProgress } from "./progress.ts";
import { type ResolveOptions, resolveModel } from "./resolve.ts";

const commit = "a".repeat(40);
const next = "b".repeat(40);
const weights = fakeModel(300_000);
const gguf = { repo: "org/chat-GGUF", revision: "main", commit, files: { "m.gguf": weights }, large: ["m.gguf"] };
const safetensors = {
  repo: "org/chat",
  revision: "main",
  commit,
  large: ["model.safetensors"],
  files: {
    "model.safetensors": Buffer.from("tensors"),
    "config.json": Buffer.from("{}"),
    "tokenizer.json": Buffer.from("{}"),
    "tokenizer.model": Buffer.from("spm"),
    "merges.txt": Buffer.from("a b"),
    "chat_template.jinja": Buffer.from("{{ messages }}"),
    "pytorch_model.bin": Buffer.from("a pickle"),
    "modeling_chat.py": Buffer.from("import os"),
    "optimizer.pt": Buffer.from("a pickle"),
    "onnx/model.json": Buffer.from("{}"),
    "README.md": Buffer.from("#"),
    ".gitattributes": Buffer.from(""),
  },
};

async function hub() {
  const web = await fakeWeb();
  const cacheDir = await tempDir();
  const options = (env: Record<string, string> = {}, more: Partial<ResolveOptions> = {}) =>
    resolveOptions(cacheDir, { env: { HF_ENDPOINT: web.url("/"), ...env }, ...more });
  return { web, cacheDir, options };
}

describe("one file", () => {
  test("is fetched at the commit that its revision means, checked against the hub's sha256", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    const model = await resolveModel("hf://org/chat-GGUF/m.gguf", options());
    expect(model).toMatchObject({ sha256: sha256(weights), bytes: weights.length });
    expect(await readFile(model.path)).toEqual(weights);
    expect(model.path).toContain(commit);
  });

  test("is the repository's only GGUF when none is named", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    expect(await resolveModel("hf://org/chat-GGUF", options())).toMatchObject({ sha256: sha256(weights) });
  });

  test("comes with the other parts of a split model, and the path is the first part's", async () => {
    const { web, options } = await hub();
    const part = (i: number) => `q4/m-0000${i}-of-00003.gguf`;
    const files = { [part(1)]: fakeModel(100), [part(2)]: fakeModel(200), [part(3)]: fakeModel(300) };
    serveRepo(web, { ...gguf, files, large: [] });
    const model = await resolveModel(`hf://org/chat-GGUF/${part(2)}`, options());
    expect(model).toMatchObject({ bytes: 600 });
    expect(model.path.endsWith(part(1))).toBe(true);
    expect(await readFile(model.path.replace("00001-of", "00003-of"))).toEqual(files[part(3)]);
  });

  test("follows a branch that moved, and keeps the old commit apart", async () => {
    const { web, options } = await hub();
    const newer = fakeModel(300_000, "b");
    serveRepo(web, gguf);
    const first = await resolveModel("hf://org/chat-GGUF/m.gguf", options());
    serveRepo(web, { ...gguf, commit: next, files: { "m.gguf": newer } });
    const second = await resolveModel("hf://org/chat-GGUF/m.gguf", options());
    expect(await readFile(second.path)).toEqual(newer);
    expect(await readFile(first.path)).toEqual(weights);
  });

  test("of a commit needs no hub once it is cached", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    const uri = `hf://org/chat-GGUF/m.gguf@${commit}`;
    const ready = options();
    const model = await resolveModel(uri, ready);
    await web.close();
    expect(await resolveModel(uri, ready)).toEqual(model);
  });

  test("goes on after a cut on the file host, asking the hub for the way again", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    const cdn = `/cdn/${sha256(weights).slice(0, 16)}`;
    web.on(cdn, file(weights, { etag: '"x"', cutAfter: 100_000 }), file(weights, { etag: '"x"' }));
    await resolveModel("hf://org/chat-GGUF/m.gguf", options());
    expect(web.asked(cdn).map(({ headers }) => headers.range)).toEqual([undefined, "bytes=100000-"]);
    expect(web.asked(filePath("org/chat-GGUF", commit, "m.gguf"))).toHaveLength(2);
  });
});

describe("a token", () => {
  test.each([
    { name: "of the call", env: {}, token: "hf_call", want: "Bearer hf_call" },
    { name: "of the environment", env: { HF_TOKEN: "hf_env" }, token: "", want: "Bearer hf_env" },
  ])("$name goes to the hub alone, never along a redirect", async ({ env, token, want }) => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    await resolveModel("hf://org/chat-GGUF/m.gguf", options(env, { token }));
    const sent = web.seen.map(({ path, headers }) => [path.split("/")[1], headers.authorization]);
    expect(sent).toEqual([
      ["api", want],
      ["org", want],
      ["cdn", undefined],
    ]);
  });

  test("is never logged or shown", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    web.on(filePath("org/chat-GGUF", commit, "m.gguf"), status(500), status(401));
    const lines: string[] = [];
    const note = (message: string, fields?: object) => void lines.push(message + JSON.stringify(fields));
    const log = { debug: note, info: note, warn: note, error: note, child: () => log };
    const error = await resolveModel("hf://org/chat-GGUF/m.gguf", options({ HF_TOKEN: "hf_s3cret" }, { log })).catch(
      (e: unknown) => e,
    );
    expect(lines).toHaveLength(1);
    expect(lines.join() + String(error)).not.toContain("s3cret");
  });

  test.each([401, 403])("that is missing or not enough (%i) is asked for, with where to put it", async (code) => {
    const { web, options } = await hub();
    web.on("/api/models/org/gated/revision/main?blobs=true", status(code));
    const done = resolveModel("hf://org/gated/m.gguf", options());
    await expect(done).rejects.toThrow(/org\/gated@main is denied .*HF_TOKEN .*model\.secretRef.*licence/);
    await expect(done).rejects.toMatchObject({ reason: "ModelDownloadFailed" });
    expect(web.seen).toHaveLength(1);
  });
});

describe("a whole repository", () => {
  test("is its safetensors, tokenizer and configuration; no pickle and no code is even asked for", async () => {
    const { web, options } = await hub();
    serveRepo(web, safetensors);
    const model = await resolveModel("hf://org/chat", options());
    const wanted = [
      "chat_template.jinja",
      "config.json",
      "merges.txt",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer.model",
    ];
    expect((await readdir(model.path)).filter((name) => !name.endsWith(".llmpool")).sort()).toEqual(wanted);
    expect(model).toEqual({ path: model.path, bytes: 31 });
    expect(web.seen.map(({ path }) => path).filter((path) => /\.(bin|py|pt|md)$/.test(path))).toEqual([]);
  });

  test("stays out of sight until the last file is there, then goes on with the missing ones only", async () => {
    const { web, options, cacheDir } = await hub();
    serveRepo(web, safetensors);
    const path = filePath("org/chat", commit, "tokenizer.json");
    web.on(path, status(500));
    await expect(resolveModel("hf://org/chat", options())).rejects.toThrow("answers 500");
    expect(await readdir(join(cacheDir, "hf", "org", "chat", commit))).toEqual(["snapshot.part"]);
    web.on(path, file(Buffer.from("{}")));
    const before = web.seen.length;
    await resolveModel("hf://org/chat", options());
    expect(web.seen.slice(before).map((r) => r.path)).not.toContain(filePath("org/chat", commit, "config.json"));
    expect((await readdir(join(cacheDir, "hf", "org", "chat", commit))).sort()).toEqual(["snapshot", "snapshot.json"]);
  });

  test("reports progress over all its files", async () => {
    const { web, options } = await hub();
    serveRepo(web, safetensors);
    const seen: DownloadProgress[] = [];
    await resolveModel("hf://org/chat", options({}, { onProgress: (progress) => void seen.push(progress) }));
    expect(seen.at(-1)).toMatchObject({ name: "org/chat@main", bytes: 31, total: 31 });
  });
});

describe("without the hub", () => {
  test("uses the commit that the branch last meant, and says so", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    const ready = options();
    const model = await resolveModel("hf://org/chat-GGUF/m.gguf", ready);
    await web.close();
    const warnings: string[] = [];
    const log = { ...ready.log, warn: (message: string) => void warnings.push(message) };
    expect(await resolveModel("hf://org/chat-GGUF/m.gguf", { ...ready, log })).toEqual(model);
    expect(warnings).toEqual(["the hub is out of reach; using the cached copy"]);
  });

  test("and without a copy there is one clear message", async () => {
    const { web, options } = await hub();
    const ready = options();
    await web.close();
    await expect(resolveModel("hf://org/chat-GGUF/m.gguf", ready)).rejects.toThrow(
      /refuses the connection \(5 tries\)/,
    );
  });

  test("HF_HUB_OFFLINE asks nobody: the copy, or a message that names it", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    await expect(resolveModel("hf://org/chat-GGUF/m.gguf", options({ HF_HUB_OFFLINE: "1" }))).rejects.toThrow(
      "HF_HUB_OFFLINE",
    );
    expect(web.seen).toEqual([]);
    const model = await resolveModel("hf://org/chat-GGUF/m.gguf", options());
    const before = web.seen.length;
    expect(await resolveModel("hf://org/chat-GGUF/m.gguf", options({ HF_HUB_OFFLINE: "yes" }))).toEqual(model);
    expect(web.seen).toHaveLength(before);
  });
});

describe("refuses", () => {
  const api = "/api/models/org/chat-GGUF/revision/main?blobs=true";
  const at = (name: string) => filePath("org/chat-GGUF", commit, name);
  const two = { ...gguf, files: { "a.gguf": weights, "b.gguf": weights } };
  test.each([
    {
      name: "a file that is not there, listing what is",
      uri: "hf://org/chat-GGUF/x.gguf",
      repo: two,
      reason: "ModelNotFound",
      message: "no file x.gguf: hf://org/chat-GGUF/a.gguf, hf://org/chat-GGUF/b.gguf",
    },
    {
      name: "to choose among several",
      uri: "hf://org/chat-GGUF",
      repo: two,
      reason: "ModelNotFound",
      message: "must name one of the files",
    },
    {
      name: "a file that is no GGUF",
      uri: "hf://org/chat-GGUF/x.bin",
      repo: two,
      reason: "ConfigInvalid",
      message: "only a .gguf file",
    },
    {
      name: "a repository of pickles",
      uri: "hf://org/chat-GGUF",
      repo: { ...gguf, files: { "pytorch_model.bin": weights, "config.json": weights } },
      reason: "ModelInvalid",
      message: "never loaded",
    },
    {
      name: "a missing part",
      uri: "hf://org/chat-GGUF/m-00001-of-00002.gguf",
      repo: { ...gguf, files: { "m-00001-of-00002.gguf": weights } },
      reason: "ModelNotFound",
      message: "no file m-00002-of-00002.gguf",
    },
    {
      name: "a path out of the folder",
      uri: "hf://org/chat-GGUF",
      repo: { ...gguf, files: { "../../evil.gguf": weights } },
      reason: "ModelInvalid",
      message: "neither",
    },
  ])("$name", async ({ uri, repo, reason, message }) => {
    const { web, options } = await hub();
    serveRepo(web, repo);
    const done = resolveModel(uri, options());
    await expect(done).rejects.toThrow(message);
    await expect(done).rejects.toMatchObject({ reason });
  });

  test.each([
    {
      name: "a length that is not the promised one",
      answer: file(weights, { sayLength: 299_999 }),
      message: "300000 were promised",
    },
    {
      name: "more bytes than promised",
      answer: file(fakeModel(300_001), { chunked: true }),
      message: "sends more than the 300000",
    },
    { name: "other bytes than promised", answer: file(fakeModel(300_000, "evil")), message: "was promised" },
  ])("$name", async ({ answer, message }) => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    web.on(at("m.gguf"), answer);
    const done = resolveModel("hf://org/chat-GGUF/m.gguf", options());
    await expect(done).rejects.toThrow(message);
    await expect(done).rejects.toMatchObject({ reason: "ModelInvalid" });
  });

  test("a sha256 other than the hub's, before it fetches anything", async () => {
    const { web, options } = await hub();
    serveRepo(web, gguf);
    const done = resolveModel("hf://org/chat-GGUF/m.gguf", options({}, { sha256: "0".repeat(64) }));
    await expect(done).rejects.toThrow("and model.sha256 is 000");
    expect(web.seen).toHaveLength(1);
  });

  test.each([
    { name: "a page", answer: status(200) },
    { name: "a listing without a commit", answer: json({ siblings: [] }) },
    { name: "a commit that is a path", answer: json({ sha: "../../../..", siblings: [] }) },
  ])("$name in place of a listing", async ({ answer }) => {
    const { web, options } = await hub();
    web.on(api, answer);
    await expect(resolveModel("hf://org/chat-GGUF", options())).rejects.toThrow("check HF_ENDPOINT");
  });

  test("an HF_ENDPOINT that would send the token in clear", async () => {
    const { options } = await hub();
    const done = resolveModel("hf://org/chat-GGUF", options({ HF_ENDPOINT: "http://hub.invalid" }));
    await expect(done).rejects.toThrow("HF_ENDPOINT must be an https:// URL");
  });

  test("a repository or revision that does not exist", async () => {
    const { options } = await hub();
    await expect(resolveModel("hf://org/none@v9", options())).rejects.toMatchObject({ reason: "ModelNotFound" });
  });
});

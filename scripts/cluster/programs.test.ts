import { chmod, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { type Env, SOURCES } from "./home.ts";
import { findPrograms, Unavailable } from "./programs.ts";

/** Programs are looked for as on a machine that reaches no download. */
async function look(env: Env, cache?: string) {
  const said: string[] = [];
  const dir = cache ?? (await tempDir());
  const sources = { cache: dir, env, say: (line: string) => said.push(line), releases: () => undefined };
  return { found: await findPrograms(["kubectl"], sources), said, cache: dir };
}

/** A folder with a Go that writes down what it is asked, as the program that it makes. */
async function fakeGo(): Promise<string> {
  const dir = await tempDir();
  const script = `#!/bin/sh\nfor last; do prev=$out; [ "$prev" = -o ] && file=$last; out=$last; done\necho "$PWD $*" > "$file"\n`;
  await writeFile(join(dir, "go"), script);
  await chmod(join(dir, "go"), 0o755);
  return `${dir}:${process.env.PATH}`;
}

test("KUBEBUILDER_ASSETS is used as it is", async () => {
  const assets = await tempDir();
  await writeFile(join(assets, "kubectl"), "");
  const { found, said } = await look({ KUBEBUILDER_ASSETS: assets, PATH: "" });
  expect(found).toEqual({ kubectl: join(assets, "kubectl") });
  expect(said).toEqual([]);
});

test("a program is built once, with a line that says so", async () => {
  const env = { PATH: await fakeGo() };
  const first = await look(env);
  expect(first.said).toEqual([expect.stringMatching(/^building kubectl \d+\.\d+\.\d+ from its Go module \(1 of 1/)]);
  const again = await look(env, first.cache);
  expect(again.said).toEqual([]);
  expect(again.found).toEqual(first.found);
});

test("two runs at the same time build it once", async () => {
  const env = { PATH: await fakeGo() };
  const cache = await tempDir();
  const [a, b] = await Promise.all([look(env, cache), look(env, cache)]);
  expect(a.found).toEqual(b.found);
  expect([...a.said, ...b.said].filter((line) => line.startsWith("building"))).toHaveLength(1);
});

test("what a killed build has left is removed by the next one", async () => {
  const env = { PATH: await fakeGo() };
  const { found, cache } = await look(env);
  const dir = join(found.kubectl, "..");
  const other = await tempDir();
  const same = join(other, dir.slice(cache.length));
  await mkdir(same, { recursive: true });
  await writeFile(join(same, "kubectl.4194305"), "half"); // above the highest pid of Linux
  await look(env, other);
  expect(await readdir(same)).toEqual(["kubectl"]);
});

test("without any source it says what to install", async () => {
  await expect(look({ PATH: "" })).rejects.toThrow(Unavailable);
  await expect(look({ PATH: "" })).rejects.toThrow(/install Go 1\.\d+ or later/);
});

test("the sources of the programs are in the checkout, with checksums", async () => {
  for (const module of await readdir(SOURCES))
    expect(await readdir(join(SOURCES, module))).toEqual(expect.arrayContaining(["go.mod", "go.sum"]));
});

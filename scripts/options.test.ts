import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";

const run = (script: string, ...args: string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(import.meta.dirname, script), ...args], {
    encoding: "utf8",
  });
  return { status, stdout, stderr };
};

test.each(["images.ts", "bench.ts"])("%s has a usage text, and one line for what it does not know", (script) => {
  const { status, stdout, stderr } = run(script, "--help");
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/^npm run \w+ -- \[NAME...\] /);
  expect(run(script, "--nope")).toEqual({ status: 2, stdout: "", stderr: "Unknown option '--nope'; see --help\n" });
});

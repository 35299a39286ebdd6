import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { processStart } from "../lib/process-start.ts";
import { claimStateDir, readRunFile } from "./run-file.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "llmpool-run-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("says who runs here and where, until it is released", () => {
  const claim = claimStateDir(dir, "apex");
  claim.publish("http://127.0.0.1:8080");
  expect(readRunFile(dir)).toMatchObject({ pid: process.pid, pool: "apex", url: "http://127.0.0.1:8080" });
  claim.release();
  expect(readRunFile(dir)).toBeUndefined();
  expect(readdirSync(dir)).toEqual([]);
});

test("a second one is refused and told who has it", () => {
  const claim = claimStateDir(dir, "apex");
  expect(() => claimStateDir(dir, "other")).toThrow(`process id ${process.pid} (pool apex)`);
  expect(readRunFile(dir)?.pool).toBe("apex");
  claim.release();
});

test("what a killed one left is taken over, also when its pid lives again as something else", async () => {
  const child = spawn("sleep", ["600"]);
  try {
    const pid = child.pid ?? 0;
    writeFileSync(
      join(dir, "dev.json"),
      JSON.stringify({ pid, start: `${processStart(pid)}0`, pool: "old", url: "x" }),
    );
    expect(readRunFile(dir)).toBeUndefined();
    claimStateDir(dir, "new");
    expect(JSON.parse(readFileSync(join(dir, "dev.json"), "utf8"))).toMatchObject({ pid: process.pid, pool: "new" });
  } finally {
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
  }
});

test("a damaged run file is nobody's", () => {
  writeFileSync(join(dir, "dev.json"), "{");
  claimStateDir(dir, "new").release();
});

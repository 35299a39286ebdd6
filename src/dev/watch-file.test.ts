import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { systemClock } from "../lib/clock.ts";
import { watchFile } from "./watch-file.ts";

let dir: string;
let file: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "llmpool-watch-"));
  file = join(dir, "pool.yaml");
  writeFileSync(file, "one");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("tells of an edit in place and of a file put in its place, and of nothing when the text is the same", async () => {
  const seen: string[] = [];
  const stop = watchFile(file, "one", systemClock, (text) => seen.push(text));
  writeFileSync(file, "two");
  await eventually("edit", () => seen.length === 1);
  writeFileSync(join(dir, "draft"), "three");
  renameSync(join(dir, "draft"), file);
  await eventually("replaced", () => seen.length === 2);
  writeFileSync(file, "three");
  writeFileSync(file, "four");
  await eventually("edit", () => seen.length === 3);
  stop();
  expect(seen).toEqual(["two", "three", "four"]);
});

test("sees an edit of which the system tells nothing, and survives the file's absence", () => {
  const clock = new FakeClock();
  const seen: string[] = [];
  const away: string[] = [];
  const stop = watchFile(
    file,
    "one",
    clock,
    (text) => seen.push(text),
    (why) => away.push(why),
  );
  rmSync(file);
  clock.advance(2000);
  writeFileSync(file, "two");
  clock.advance(2000);
  expect(away).toEqual([]);
  rmSync(file);
  clock.advance(10_000);
  expect(away).toEqual(["the file is gone"]);
  stop();
  writeFileSync(file, "three");
  clock.advance(10_000);
  expect(seen).toEqual(["two"]);
});

import { spawn } from "node:child_process";
import { once } from "node:events";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { addHolder, BY_HAND, holders, removeHolder } from "./holders.ts";

test("a process holds until it takes that back", async () => {
  const run = await tempDir();
  expect(await holders(run)).toEqual([]);
  await addHolder(run, process.pid);
  expect(await holders(run)).toHaveLength(1);
  await removeHolder(run, process.pid);
  expect(await holders(run)).toEqual([]);
});

test("a person holds until the end", async () => {
  const run = await tempDir();
  await addHolder(run, BY_HAND);
  expect(await holders(run)).toEqual([BY_HAND]);
});

test("a process that was killed holds no longer", async () => {
  const run = await tempDir();
  const child = spawn("sleep", ["600"]);
  try {
    await addHolder(run, child.pid ?? 0);
    expect(await holders(run)).toHaveLength(1);
  } finally {
    child.kill("SIGKILL");
  }
  await once(child, "exit");
  expect(await holders(run)).toEqual([]);
});

test("a process that got the pid of a dead holder is none", async () => {
  const run = await tempDir();
  await addHolder(run, process.pid);
  const [own] = await holders(run);
  await rename(join(run, "holders", own ?? ""), join(run, "holders", `${process.pid}-1`));
  expect(await holders(run)).toEqual([]);
});

import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import type { LocalSecrets } from "./definition.ts";
import { followSecrets, readSecretDirs } from "./follow-secrets.ts";

async function follow() {
  const dir = await tempDir();
  writeFileSync(join(dir, "alice"), "1");
  const dirs = new Map([["keys", dir]]);
  const clock = new FakeClock();
  const told: string[] = [];
  const stop = followSecrets({
    ...{ dirs, clock, known: readSecretDirs(dirs) },
    onChange: (secrets: LocalSecrets) => told.push(Object.entries(secrets.keys ?? {}).join()),
    onProblem: (problem) => told.push(problem),
  });
  return { dir, clock, told, stop };
}

test("tells a key that came, changed or went within two seconds, once; then no more when it is stopped", async () => {
  const { dir, clock, told, stop } = await follow();
  clock.advance(10_000);
  expect(told).toEqual([]);
  writeFileSync(join(dir, "bob"), "2");
  clock.advance(1_999);
  expect(told).toEqual([]);
  clock.advance(10_000);
  expect(told).toEqual(["alice,1,bob,2"]);
  rmSync(join(dir, "alice"));
  clock.advance(2_000);
  stop();
  writeFileSync(join(dir, "bob"), "3");
  clock.advance(10_000);
  expect(told).toEqual(["alice,1,bob,2", "bob,2"]);
});

test("a folder that cannot be read is told once, and what it holds when it is back", async () => {
  const { dir, clock, told, stop } = await follow();
  renameSync(dir, `${dir}-away`);
  clock.advance(10_000);
  expect(told).toEqual([`--secret keys=${dir}: the folder cannot be read`]);
  renameSync(`${dir}-away`, dir);
  writeFileSync(join(dir, "alice"), "2");
  clock.advance(2_000);
  expect(told.slice(1)).toEqual(["alice,2"]);
  stop();
});

test("a Secret that a kubelet has mounted changes by a link", async () => {
  const { dir, clock, told, stop } = await follow();
  rmSync(join(dir, "alice"));
  const version = (name: string, value: string) => {
    mkdirSync(join(dir, name));
    writeFileSync(join(dir, name, "alice"), value);
    symlinkSync(name, join(dir, "..data_tmp"));
    renameSync(join(dir, "..data_tmp"), join(dir, "..data"));
  };
  version("..2026_1", "1");
  symlinkSync("..data/alice", join(dir, "alice"));
  clock.advance(2_000);
  version("..2026_2", "2");
  clock.advance(2_000);
  expect(told).toEqual(["alice,2"]);
  stop();
});

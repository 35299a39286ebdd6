import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { tempDir } from "../../../test/support/temp-dir.ts";
import { ADMISSION_LOG, AdmissionLog, absorb, UNNAMED_PROCESS } from "./admission-log.ts";
import { openEphemeralDatabase } from "./database.ts";

const rowOf = (row: number, id = `r${row}`) => [row, id, "t", "0", 7, "1:0", null, 0.5, null, "b"];

async function setup() {
  const dir = await tempDir();
  const db = openEphemeralDatabase();
  const log = new AdmissionLog(dir, absorb(db, dir));
  onTestFinished(() => log.close());
  const found = (column: string) => {
    absorb(db, dir);
    const rows = db.prepare(`SELECT ${column} AS value FROM reservations ORDER BY row`).all();
    db.exec("DELETE FROM reservations; UPDATE admission_log SET epoch = epoch - 1");
    return rows.map(({ value }) => value);
  };
  return {
    ...{ log, file: join(dir, ADMISSION_LOG) },
    /** The tables are written. */
    commit: () => {
      db.prepare("UPDATE admission_log SET epoch = ?").run(log.nextEpoch);
      log.restart();
    },
    /** What a process that begins now finds. */
    recover: () => found("request_id"),
    processes: () => found("boot"),
  };
}

test("what was appended since the tables were written is found; what was before is void", async () => {
  const { log, recover, commit } = await setup();
  expect(recover()).toEqual([]);
  log.append([rowOf(1), rowOf(2)]);
  log.append([rowOf(3)]);
  expect(recover()).toEqual(["r1", "r2", "r3"]);
  commit();
  expect(log.isUsed).toBe(false);
  expect(recover()).toEqual([]);
  log.append([rowOf(4)]);
  expect(recover()).toEqual(["r4"]);
});

test("a line of a format that knew of no processes is found, too", async () => {
  const { log, recover, processes } = await setup();
  log.append([rowOf(1).slice(0, -1), rowOf(2).slice(0, -1)]);
  expect(recover()).toEqual(["r1", "r2"]);
  expect(processes()).toEqual([UNNAMED_PROCESS, UNNAMED_PROCESS]);
});

test("whatever is appended, and whenever the tables are written, nothing is lost or found twice, and the file does not grow with time", async () => {
  const turn = fc.array(fc.string({ unit: "binary", minLength: 1, maxLength: 300 }), { minLength: 1, maxLength: 40 });
  const steps = fc.array(fc.oneof(turn, fc.constant("commit" as const)), { maxLength: 30 });
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const { log, recover, commit, file } = await setup();
      let row = 0;
      let since: string[] = [];
      let most = 0;
      for (const step of all) {
        if (step === "commit") commit();
        else log.append(step.map((id) => rowOf(++row, id)));
        since = step === "commit" ? [] : [...since, ...step];
        most = Math.max(most, since.length);
        expect(recover()).toEqual(since);
      }
      // Each character takes twelve bytes at most.
      expect(statSync(file).size).toBeLessThanOrEqual(most * 300 * 12 + all.length * 40);
    }),
    { numRuns: 50 },
  );
});

test("a last line that is not whole, or not what was written, never was; those before it were", async () => {
  const { log, recover, file } = await setup();
  log.append([rowOf(1)]);
  const first = statSync(file).size;
  log.append([rowOf(2)]);
  const whole = readFileSync(file);
  for (let at = first; at < whole.length - 1; at++) {
    writeFileSync(file, whole.subarray(0, at));
    expect(recover()).toEqual(["r1"]);
    const flipped = Buffer.from(whole);
    flipped[at] = (flipped[at] ?? 0) ^ 1;
    writeFileSync(file, flipped);
    expect(recover()).toEqual(["r1"]);
  }
  writeFileSync(file, whole);
  expect(recover()).toEqual(["r1", "r2"]);
});

test("what cannot be written leaves no trace, and the next line takes its place", async () => {
  const { log, recover } = await setup();
  log.append([rowOf(1)]);
  // No JSON.
  expect(() => log.append([[1n]])).toThrow();
  log.append([rowOf(2)]);
  expect(recover()).toEqual(["r1", "r2"]);
});

import { describe, expect, test } from "vitest";
import { tempDir } from "../../../test/support/temp-dir.ts";
import { AdmissionLog, absorb } from "./admission-log.ts";
import { openEphemeralDatabase } from "./database.ts";
import { Journal } from "./journal.ts";
import { newRow, type ReservationRecord } from "./records.ts";

function setup(log?: AdmissionLog) {
  const db = openEphemeralDatabase();
  const journal = new Journal(db, () => ({ ms: 0, bootId: "b", bootMs: 0, wallMs: 0 }), log);
  const rows = () =>
    db
      .prepare("SELECT request_id FROM reservations ORDER BY row")
      .all()
      .map((c) => c.request_id);
  return { db, journal, rows };
}

function reservation(row: number, tokens = 1): ReservationRecord {
  return {
    ...newRow(row),
    ...{
      requestId: `r${row}`,
      tenant: "t",
      instance: "0",
      boot: undefined,
      tokens,
      charges: [],
      episode: undefined,
      at: 0,
      recovered: false,
      note: undefined,
    },
  };
}

function end(journal: Journal, record: ReservationRecord): void {
  record.gone = true;
  journal.reservations.mark(record);
}

describe("a commit", () => {
  test("writes the last state of each record, and nothing for one that came and went", () => {
    const { journal, rows } = setup();
    const [kept, gone] = [reservation(1), reservation(2)];
    for (const record of [kept, gone]) journal.reservations.mark(record);
    end(journal, gone);
    journal.commit();
    expect(rows()).toEqual(["r1"]);
    end(journal, kept);
    expect(journal.isDirty).toBe(true);
    journal.commit();
    expect(rows()).toEqual([]);
    expect(journal.isDirty).toBe(false);
  });

  test("of admissions logs new reservations, and leaves both halves of a settlement to the next whole one", async () => {
    const dir = await tempDir();
    const { db, journal, rows } = setup(new AdmissionLog(dir, 0));
    const [settled, running] = [reservation(1), reservation(2)];
    for (const record of [settled, running]) {
      journal.admit(record);
      journal.commitAdmissions();
    }
    end(journal, settled);
    expect(rows()).toEqual([]);
    expect(journal.isDirty).toBe(true);
    // A process that is killed here has settled nothing.
    const { db: copy, rows: absorbed } = setup();
    absorb(copy, dir);
    expect(absorbed()).toEqual(["r1", "r2"]);
    journal.commit();
    expect(rows()).toEqual(["r2"]);
    expect(journal.isDirty).toBe(false);
    // And one that is killed now finds nothing more in the log.
    absorb(db, dir);
    expect(rows()).toEqual(["r2"]);
  });

  test("of admissions that the log does not take leaves nothing of them", () => {
    const full: Pick<AdmissionLog, "append" | "isUsed"> = {
      isUsed: false,
      append() {
        throw new Error("no space left");
      },
    };
    const { journal, rows } = setup(full as AdmissionLog);
    const refused = reservation(1);
    journal.admit(refused);
    end(journal, refused);
    journal.commitAdmissions();
    const another = reservation(2);
    journal.admit(another);
    expect(() => journal.commitAdmissions()).toThrow("no space left");
    // Whoever asked undoes it; then nobody asks for it again.
    end(journal, another);
    journal.commitAdmissions();
    journal.commit();
    expect(rows()).toEqual([]);
  });

  test("takes out exactly the rows that are gone", () => {
    const { journal, rows } = setup();
    const all = Array.from({ length: 12 }, (_, i) => reservation(i + 1));
    for (const record of all) journal.reservations.mark(record);
    journal.commit();
    for (const row of [12, 3, 1, 2, 7, 9, 8]) {
      const record = all[row - 1];
      if (!record) continue;
      end(journal, record);
    }
    journal.commit();
    expect(rows()).toEqual(["r4", "r5", "r6", "r10", "r11"]);
  });

  test("that fails in the middle writes nothing, and the next one writes all of it", () => {
    const { journal, rows } = setup();
    const [good, bad] = [reservation(1), reservation(2, 0.5)];
    for (const record of [good, bad]) journal.reservations.mark(record);
    expect(() => journal.commit()).toThrow();
    expect(rows()).toEqual([]);
    end(journal, bad);
    journal.commit();
    expect(rows()).toEqual(["r1"]);
  });

  test("that fails forgets what came and went, so that a disk that stays full fills no memory", () => {
    const { journal } = setup();
    const brief = reservation(1);
    journal.reservations.mark(brief);
    end(journal, brief);
    journal.buckets.mark({
      ...newRow(1),
      ...{ scope: "key", tenant: "", id: "k", episodeRow: null, windowSeconds: 0, window: 0.5, spent: 0, reserved: 0 },
    });
    expect(() => journal.commit()).toThrow();
    expect(journal.reservations.isDirty).toBe(false);
    expect(journal.buckets.isDirty).toBe(true);
  });
});

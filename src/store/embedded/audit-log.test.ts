import { expect, test } from "vitest";
import { FakeClock } from "../../../test/support/fake-clock.ts";
import { silentLogger } from "../../lib/logger.ts";
import { Commits } from "./commits.ts";
import { openEphemeralDatabase } from "./database.ts";
import { Episodes } from "./episodes.ts";
import { Journal } from "./journal.ts";
import { Ledger } from "./ledger.ts";
import type { EpisodeRecord } from "./records.ts";

const SETTINGS = {
  ...{ timeoutSeconds: 100, progressExtendSeconds: 10, maxTimeoutSeconds: 100 },
  ...{ idleTimeoutSeconds: 0, retainSeconds: 1000, budgetTokens: 0 },
};

function setup() {
  const clock = new FakeClock();
  const db = openEphemeralDatabase();
  const journal = new Journal(db, () => ({ ms: 0, bootId: "b", bootMs: 0, wallMs: 0 }));
  const commits = new Commits(journal, clock, silentLogger);
  const ledger = new Ledger(journal, { bucket: 1, reservation: 1 });
  const episodes = new Episodes({ clock, journal, commits, ledger, nextRow: 1, most: 10 });
  const { audit } = journal;
  const start = (id: string) => {
    const record = episodes.make("t", id, SETTINGS, {});
    episodes.add(record);
    return record;
  };
  const move = (episode: EpisodeRecord, request: string) => audit.add(episode, 0, "rebind", { request });
  const told = (episode: EpisodeRecord) =>
    audit.entries(episode, [], 0).map(({ seq, kind, data }) => `${seq} ${kind} ${data.request ?? ""}`.trim());
  const rows = () => Number(db.prepare("SELECT count(*) AS n FROM audit").get()?.n);
  const inTransaction = (end: "COMMIT" | "ROLLBACK") => {
    db.exec("BEGIN");
    audit.write();
    db.exec(end);
    if (end === "COMMIT") audit.written();
    else audit.unwritten();
  };
  return { journal, audit, start, move, told, rows, inTransaction };
}

test("an episode's entries are found among those of others, also past commits that failed", () => {
  const { journal, audit, start, move, told, inTransaction } = setup();
  const [e, f] = [start("e"), start("f")];
  journal.commit();
  for (const request of ["a", "b", "c"]) {
    move(e, request);
    move(f, request);
  }
  inTransaction("ROLLBACK");
  // One of them was undone.
  audit.forget("b");
  inTransaction("ROLLBACK");
  move(e, "d");
  inTransaction("COMMIT");
  move(f, "e");
  inTransaction("COMMIT");
  expect(told(e)).toEqual(["1 start", "2 rebind a", "4 rebind c", "5 rebind d"]);
  expect(told(f)).toEqual(["1 start", "2 rebind a", "4 rebind c", "5 rebind e"]);
});

test("denials in a row are one entry, before and after it is written", () => {
  const { journal, audit, start, move, inTransaction } = setup();
  const e = start("e");
  const deny = (id: string) => audit.deny(e, 0, { scope: "role", id, count: 1 });
  for (const id of ["coder", "coder", "planner"]) deny(id);
  journal.commit();
  deny("planner");
  inTransaction("ROLLBACK");
  deny("planner");
  inTransaction("COMMIT");
  move(e, "a");
  deny("planner");
  inTransaction("COMMIT");
  const counts = audit.entries(e, [], 0).map(({ kind, data }) => [kind, data.id, data.count]);
  expect(counts.slice(1)).toEqual([
    ["deny", "coder", 2],
    ["deny", "planner", 3],
    ["rebind", undefined, undefined],
    ["deny", "planner", 1],
  ]);
});

test("a transaction adds one row for each episode, and rows go when every episode that began before them is forgotten", () => {
  const { journal, start, move, told, rows } = setup();
  const [e, f] = [start("e"), start("f")];
  journal.commit();
  for (const episode of [e, f, e]) move(episode, "a");
  journal.commit();
  expect(rows()).toBe(4);
  journal.forgetEpisode(f);
  journal.commit();
  // The first of them is still remembered, and its journal is whole.
  expect(rows()).toBe(4);
  expect(told(e)).toEqual(["1 start", "2 rebind a", "3 rebind a"]);
  const g = start("g");
  journal.forgetEpisode(e);
  journal.commit();
  expect(rows()).toBe(1);
  expect(told(g)).toEqual(["1 start"]);
  journal.forgetEpisode(g);
  journal.commit();
  expect(rows()).toBe(0);
});

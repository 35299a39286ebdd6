import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { LLMPoolError } from "../../src/lib/errors.ts";
import { UNNAMED_PROCESS } from "../../src/store/embedded/admission-log.ts";
import { COLLECT_MS } from "../../src/store/embedded/commits.ts";
import type { EmbeddedStore } from "../../src/store/embedded/store.ts";
import { EmbeddedHome } from "../support/embedded-home.ts";
import { StoreProcess } from "../support/store-process.ts";
import { ask, SETTINGS, usage } from "../support/store-suite.ts";

let home: EmbeddedHome;
beforeEach(() => {
  home = new EmbeddedHome();
});
afterEach(() => home[Symbol.asyncDispose]());

const path = (name: string) => join(home.dir, name);
const KEY = { scope: "key", id: "k", limit: 1000 } as const;

function openError(home: EmbeddedHome, dir = home.dir): LLMPoolError {
  let store: EmbeddedStore | undefined;
  try {
    store = home.openNow({ dir });
  } catch (error) {
    if (error instanceof LLMPoolError) return error;
    throw error;
  }
  void store.close();
  throw new Error("was opened");
}

/** No word of the process that a reservation is for. */
const TO_FORMAT_3 = "ALTER TABLE reservations DROP COLUMN boot; PRAGMA user_version = 3;";

/** A row for each event and entry, and no log of admissions. */
const TO_FORMAT_2 = `
  ${TO_FORMAT_3}
  CREATE TABLE old_events (
    episode INTEGER NOT NULL, slot INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (episode, slot)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO old_events
    SELECT episode, value->>'seq' % 256, value->>'seq', value->>'kind', value->>'at', value->'data' FROM events, json_each(events);
  DROP TABLE events;
  ALTER TABLE old_events RENAME TO events;
  CREATE TABLE old_audit (
    row INTEGER PRIMARY KEY, episode INTEGER NOT NULL, seq INTEGER NOT NULL, prev INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL, admit_seq INTEGER, admit TEXT
  ) STRICT;
  INSERT INTO old_audit
    SELECT row, episode, value->>0, prev, value->>1, value->>2, value->3, value->4->>'seq', value->4 FROM audit, json_each(entries);
  DROP TABLE audit;
  ALTER TABLE old_audit RENAME TO audit;
  DROP TABLE admission_log;
  PRAGMA user_version = 2;
`;

/** A directory with an episode in it. */
async function fill(): Promise<void> {
  await using store = await home.open();
  await store.startEpisode("t", { id: "e", settings: SETTINGS });
}

describe("one process at a time", () => {
  test("a second one fails and names the first; after a kill -9 the next one may", async () => {
    await using child = new StoreProcess("hold", home.dir);
    await child.written(1);
    expect(openError(home)).toMatchObject({ code: "store_unavailable" });
    expect(openError(home).message).toContain(`in use by process ${child.pid}`);
    // The kernel's lock alone is enough, whatever the file says.
    rmSync(path("pid"));
    expect(openError(home).message).toContain("in use by another process");
    await child.kill();
    await using store = await home.open();
    expect(await store.episodes("t")).toEqual([]);
  });

  test("so does a second store in the same process, until the first is closed", async () => {
    const first = await home.open();
    expect(openError(home).message).toContain(`in use by process ${process.pid}`);
    await first.close();
    expect(existsSync(path("pid"))).toBe(false);
    await (await home.open()).close();
  });

  test("where the file names a living process, no lock is needed to believe it", async () => {
    const store = await home.open();
    const named = readFileSync(path("pid"));
    await store.close();
    writeFileSync(path("pid"), named);
    expect(openError(home).message).toContain(`in use by process ${process.pid}`);
  });

  test("a file of a dead process whose pid another one has now does not keep anybody out", async () => {
    writeFileSync(path("pid"), JSON.stringify({ pid: 1, started: "1", host: "elsewhere" }));
    await (await home.open()).close();
    writeFileSync(path("pid"), '{"pid": 1, "sta');
    await (await home.open()).close();
  });
});

describe("never begins anew silently", () => {
  test.each([
    { name: "an empty file", spoil: () => truncateSync(path("state.db"), 0), says: "state.db is empty" },
    { name: "half a file", spoil: () => truncateSync(path("state.db"), 6000), says: "damaged" },
    {
      name: "another kind of file",
      spoil: () => writeFileSync(path("state.db"), "# notes\n".repeat(999)),
      says: "no database",
    },
    {
      name: "a damaged page",
      spoil: () => {
        const bytes = readFileSync(path("state.db"));
        writeFileSync(path("state.db"), bytes.fill(0x5a, 4096, 4096 * 6));
      },
      says: "damaged",
    },
    {
      name: "another program's database",
      spoil: () => {
        rmSync(path("state.db"));
        const db = new DatabaseSync(path("state.db"));
        db.exec("CREATE TABLE notes (text TEXT)");
        db.close();
      },
      says: "another program's database",
    },
    {
      name: "a newer format",
      spoil: () => {
        const db = new DatabaseSync(path("state.db"));
        db.exec("PRAGMA user_version = 99");
        db.close();
      },
      says: "format 99",
    },
    {
      name: "a log without its database",
      spoil: () => {
        rmSync(path("state.db"));
        writeFileSync(path("state.db-wal"), "log");
      },
      says: "state.db is missing",
    },
    {
      name: "admissions without their database",
      spoil: () => rmSync(path("state.db")),
      says: "state.db is missing, but its log admissions.log",
    },
  ])("on $name it says so and leaves it as it is", async ({ spoil, says }) => {
    await fill();
    spoil();
    const before = existsSync(path("state.db")) ? readFileSync(path("state.db")) : undefined;
    const error = openError(home);
    expect(error).toMatchObject({ code: "store_unavailable" });
    expect(error.message).toContain(says);
    expect(error.message).toContain(home.dir);
    expect(existsSync(path("state.db")) ? readFileSync(path("state.db")) : undefined).toEqual(before);
    // And the lock is free again.
    expect(openError(home).message).toContain(says);
  });

  test("a directory that cannot be made or written is a clear error", () => {
    writeFileSync(path("file"), "");
    expect(openError(home, path("file")).message).toContain(path("file"));
    expect(openError(home, path("file/below")).message).toContain("cannot make the state directory");
    mkdirSync(path("taken/state.db"), { recursive: true });
    expect(openError(home, path("taken")).message).toContain(path("taken"));
  });

  test("the state of an older format is brought up to this one", async () => {
    await fill();
    const store = await home.open();
    const request = ask({ claims: [KEY], episode: { id: "e", settings: SETTINGS } });
    await store.admit(request);
    await home.advance(COLLECT_MS);
    await store.settle(request.requestId, usage(1, 2));
    await home.advance(COLLECT_MS);
    const open = ask({ claims: [KEY], boot: "b" });
    await store.admit(open);
    const before = { events: await store.episodeEvents("t", "e", 0), audit: await store.audit("t", "e", 0) };
    await store.close();

    const latest = new DatabaseSync(path("state.db"));
    latest.exec(TO_FORMAT_3);
    latest.close();
    const first = await home.open();
    const [left] = await first.openReservations();
    expect([left?.requestId, left?.boot]).toEqual([open.requestId, UNNAMED_PROCESS]);
    await first.close();

    const now = new DatabaseSync(path("state.db"));
    now.exec(TO_FORMAT_2);
    now.close();
    const second = await home.open();
    expect(await second.episodeEvents("t", "e", 0)).toEqual(before.events);
    expect(await second.audit("t", "e", 0)).toEqual(before.audit);
    await second.close();

    const old = new DatabaseSync(path("state.db"));
    old.exec(TO_FORMAT_2);
    old.exec("DROP TABLE audit; ALTER TABLE reservations DROP COLUMN note; PRAGMA user_version = 1");
    old.close();
    await using third = await home.open();
    await third.endEpisode("t", "e", "finished");
    expect((await third.audit("t", "e", 0)).map(({ kind }) => kind)).toEqual(["end"]);
  });

  test("a process that died while it made the database leaves nothing in the way", async () => {
    writeFileSync(path("state.db.new"), "half");
    await fill();
    expect(existsSync(path("state.db.new"))).toBe(false);
  });
});

describe("across boots", () => {
  const start = async () => {
    const store = await home.open();
    await store.startEpisode("t", { id: "e", settings: SETTINGS });
    await home.advance(10_000);
    await store.progress("t", "e", "patch");
    await store.close();
  };
  const remaining = async () => {
    await using store = await home.open();
    return (await store.episode("t", "e"))?.remainingMs;
  };

  test("the wall clock says how long it was away", async () => {
    await start();
    home.reboot("boot-2");
    await home.advance(20_000);
    expect(await remaining()).toBe(70_000);
  });

  test("a wall clock that was set back gives no more than there was", async () => {
    await start();
    home.reboot("boot-2");
    home.stepWall(-3_600_000);
    await home.advance(20_000);
    expect(await remaining()).toBe(90_000);
  });

  test("within one boot a step of the wall clock changes nothing", async () => {
    await start();
    home.stepWall(-3_600_000);
    await home.advance(20_000);
    expect(await remaining()).toBe(70_000);
  });
});

describe("what is written", () => {
  test("requests that touch nothing durable write nothing; nor does a denial, nor the next turn of a session", async () => {
    await using store = await home.open();
    const session = { tenant: "t", key: "s", id: "s", role: "coder", instance: "0" };
    await store.admit(ask({ session }));
    const size = () => statSync(path("state.db-wal")).size;
    const before = size();
    for (let i = 0; i < 50; i++) {
      const requests = [ask(), ask({ session }), ask({ claims: [{ ...KEY, limit: 1 }] })];
      for (const request of requests) {
        await store.admit(request);
        await store.settle(request.requestId, usage(1));
      }
    }
    expect(size()).toBe(before);
    // And so waits for nothing.
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    await store.admit(ask({ session }));
    expect(turned).toBe(false);
  });

  test("whatever is acknowledged is in the log by then", async () => {
    await using store = await home.open();
    const size = () => statSync(path("state.db-wal")).size;
    const request = ask({ claims: [KEY], episode: { id: "e", settings: SETTINGS } });
    const session = { tenant: "t", key: "s", id: "s", role: "coder", instance: "0" };
    const calls = {
      admit: () => store.admit(request),
      rebind: () => store.rebind(request.requestId, { instance: "1" }, session),
      startEpisode: () => store.startEpisode("t", { id: "f", settings: SETTINGS }),
      progress: () => store.progress("t", "f", "patch"),
      endEpisode: () => store.endEpisode("t", "f", "finished"),
      dropBinding: () => store.dropBinding("t", "s"),
    };
    for (const [name, call] of Object.entries(calls)) {
      const before = size();
      await call();
      expect(size(), name).toBeGreaterThan(before);
    }
  });

  test("an admission to what is known is in its own log by then, and in the tables only if it lasts", async () => {
    const store = await home.open();
    const of = { claims: [KEY], episode: { id: "e", settings: SETTINGS } };
    const [known, brief, long] = [ask(of), ask(of), ask(of)];
    await store.admit(known);
    const size = () => statSync(path("state.db-wal")).size;
    const before = size();
    for (const { requestId } of [brief, long]) {
      await store.admit({ ...ask(of), requestId });
      expect(readFileSync(path("admissions.log"), "utf8")).toContain(requestId);
    }
    expect(size()).toBe(before);
    await store.settle(brief.requestId, usage(1));
    await home.advance(COLLECT_MS);
    expect(size()).toBeGreaterThan(before);
    await store.close();
    const db = new DatabaseSync(path("state.db"));
    const rows = db.prepare("SELECT request_id AS id FROM reservations ORDER BY row").all();
    db.close();
    expect(rows.map(({ id }) => id)).toEqual([known.requestId, long.requestId]);
  });

  test("settlements are collected, and in the log a moment later", async () => {
    await using store = await home.open();
    const size = () => statSync(path("state.db-wal")).size;
    const settleOne = async () => {
      const request = ask({ claims: [KEY] });
      await store.admit(request);
      const before = size();
      await store.settle(request.requestId, usage(1));
      expect(size()).toBe(before);
      return before;
    };
    const first = await settleOne();
    await home.advance(COLLECT_MS);
    expect(size()).toBeGreaterThan(first);
  });

  test("nothing is left of what is over", async () => {
    const store = await home.open();
    for (let i = 0; i < 300; i++) {
      const role = { scope: "role", id: "coder", limit: 1000, episodeId: `e${i}` } as const;
      const session = { tenant: "t", key: `s${i}`, id: "s", role: "coder", instance: "0" };
      const request = ask({ claims: [role], session, episode: { id: `e${i}`, settings: SETTINGS } });
      await store.admit(request);
      await store.settle(request.requestId, usage(10, 10));
    }
    await home.advance(8_000_000);
    expect(await store.episodes("t")).toEqual([]);
    await store.close();
    const db = new DatabaseSync(path("state.db"));
    const rows = ["episodes", "events", "audit", "buckets", "reservations", "bindings"].map(
      (table) => db.prepare(`SELECT count(*) AS n FROM ${table}`).get()?.n,
    );
    db.close();
    expect(rows).toEqual([0, 0, 0, 0, 0, 0]);
  });

  test("a close writes what had not been written yet", async () => {
    const store = await home.open();
    const admitted = store.admit(ask({ claims: [KEY] }));
    await store.close();
    expect(await admitted).toMatchObject({ ok: true });
    await using again = await home.open();
    expect(await again.openReservations()).toHaveLength(1);
  });

  test("an ephemeral store keeps nothing and touches no disk", async () => {
    await using store = home.openNow({ ephemeral: true });
    await store.startEpisode("t", { id: "e", settings: SETTINGS });
    expect(await store.episodeEvents("t", "e", 0)).toHaveLength(1);
    expect(existsSync(path("state.db"))).toBe(false);
    await using other = home.openNow({ ephemeral: true });
    expect(await other.episodes("t")).toEqual([]);
  });
});

test("an instance that used more than its reservation is counted and logged", async () => {
  const errors: string[] = [];
  home.log = { ...home.log, error: (message) => void errors.push(message) };
  await using store = await home.open();
  const request = ask({ claims: [KEY] });
  await store.admit(request);
  await store.settle(request.requestId, usage(101));
  expect(store.stats).toMatchObject({ overruns: 1, openReservations: 0 });
  expect(errors).toEqual(["an instance used more than was reserved"]);
});

test("a listener that throws stops neither the others nor the store", async () => {
  await using store = await home.open();
  const told: string[] = [];
  store.onEpisodeEvent(() => {
    throw new Error("broken");
  });
  store.onEpisodeEvent((episode) => told.push(episode.id));
  await store.startEpisode("t", { id: "e", settings: SETTINGS });
  expect(told).toEqual(["e"]);
});

test.runIf(hasPrlimit())(
  "while the disk is full it denies, undoes what was not written, ends episodes, and heals",
  async () => {
    await using child = new StoreProcess("full", home.dir);
    await child.end();
    expect(child.lines.flatMap(({ note, value }) => (note ? [[note, value]] : []))).toEqual([
      ["before", "done"],
      ["admit", "store_unavailable"],
      ["episode of it", null],
      ["session of it", ["a"]],
      ["budget", [0, 100]],
      ["start", "store_unavailable"],
      ["settle of what was never written", ["store_unavailable", "done", 0, 100]],
      ["its journal", ["start", "admit"]],
      ["settle", "done"],
      ["ended", "short"],
      ["denied without the disk", "done"],
      ["after", "done"],
    ]);
    // It killed itself right after.
    await using store = await home.open();
    expect(await store.budget(KEY, "t")).toMatchObject({ spent: 30, reserved: 100 });
    expect((await store.audit("t", "a", 0)).map(({ kind }) => kind)).toEqual(["start", "admit", "settle", "deny"]);
    expect((await store.openReservations()).map((r) => r.requestId)).toEqual(["d"]);
    expect((await store.bindings("t")).map((b) => b.id).sort()).toEqual(["a", "d"]);
  },
);

function hasPrlimit(): boolean {
  try {
    execFileSync("prlimit", ["--version"]);
    return true;
  } catch {
    return false;
  }
}

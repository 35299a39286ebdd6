import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { FakeClock } from "../../../test/support/fake-clock.ts";
import { ask } from "../../../test/support/store-suite.ts";
import { silentLogger } from "../../lib/logger.ts";
import { Bindings } from "./bindings.ts";
import { Commits } from "./commits.ts";
import { openEphemeralDatabase } from "./database.ts";
import { Episodes } from "./episodes.ts";
import { Journal } from "./journal.ts";
import { Ledger } from "./ledger.ts";
import { EmbeddedStore } from "./store.ts";

const SETTINGS = {
  timeoutSeconds: 100,
  progressExtendSeconds: 10,
  maxTimeoutSeconds: 100,
  idleTimeoutSeconds: 0,
  retainSeconds: 1000,
  budgetTokens: 0,
};

function setup() {
  const clock = new FakeClock();
  const journal = new Journal(openEphemeralDatabase(), () => ({
    ms: clock.now(),
    bootId: "b",
    bootMs: clock.now(),
    wallMs: clock.wall(),
  }));
  const commits = new Commits(journal, clock, silentLogger);
  const ledger = new Ledger(journal, { bucket: 1, reservation: 1 });
  const episodes = new Episodes({ clock, journal, commits, ledger, nextRow: 1, most: 3 });
  const bindings = new Bindings({ clock, journal, commits, ttlMs: 1e6, nextRow: 1, most: 3 });
  const parts = { clock, random: randomBytes, log: silentLogger, journal, commits, ledger, episodes, bindings };
  const store = new EmbeddedStore({ ...parts, unlock: () => {} });
  return { clock, episodes, bindings, store };
}

describe("bounds", () => {
  test("beyond the most, the episode that ended first is forgotten; active ones are not, and a new one is refused", () => {
    const { clock, episodes } = setup();
    const add = (id: string) => episodes.add(episodes.make("t", id, SETTINGS, {}));
    for (const id of ["a", "b", "c"]) add(id);
    expect(() => add("d")).toThrow(expect.objectContaining({ code: "queue_full" }));
    for (const id of ["b", "a"]) {
      const record = episodes.find("t", id);
      if (record) episodes.end(record, "finished");
    }
    add("d");
    expect(episodes.of("t").map((e) => e.id)).toEqual(["a", "c", "d"]);
    clock.advance(1);
    add("e");
    expect(episodes.of("t").map((e) => e.id)).toEqual(["c", "d", "e"]);
  });

  test("a request that would begin one too many reserves nothing", async () => {
    const { store } = setup();
    const claim = { scope: "key", id: "k", limit: 1000 } as const;
    const admit = (id: string) => store.admit(ask({ claims: [claim], episode: { id, settings: SETTINGS } }));
    await Promise.all(["a", "b", "c"].map(admit));
    await expect(admit("d")).rejects.toMatchObject({ code: "queue_full" });
    expect(await store.budget(claim, "t")).toMatchObject({ spent: 0, reserved: 300 });
    expect(await store.openReservations()).toHaveLength(3);
  });

  test("beyond the most, the session that was not used for longest is forgotten", () => {
    const { bindings, clock } = setup();
    const use = (key: string) => bindings.bind({ tenant: "t", key, id: key, role: "coder", instance: "0" }, "0");
    for (const key of ["a", "b", "c", "a", "d"]) {
      clock.advance(1_000); // the order is kept by the second
      use(key);
    }
    expect(bindings.all().map((b) => b.value.key)).toEqual(["c", "a", "d"]);
  });
});

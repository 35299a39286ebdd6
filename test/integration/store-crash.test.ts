import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { systemBootClock } from "../../src/store/embedded/boot-clock.ts";
import { openEmbeddedStore } from "../../src/store/embedded/open.ts";
import { EmbeddedHome } from "../support/embedded-home.ts";
import type { Line } from "../support/store-child.ts";
import { StoreProcess } from "../support/store-process.ts";

const POOL = { scope: "pool", id: "pool", limit: 200_000 } as const;

let home: EmbeddedHome | undefined;
afterEach(() => {
  if (home) rmSync(home.dir, { recursive: true, force: true });
});

/** What a process that was killed must have left behind, as far as it was told that it is done. */
class Book {
  readonly tried = new Set<string>();
  readonly admitted = new Map<string, { tokens: number; episode: string; session: string }>();
  readonly settling = new Map<string, number>();
  readonly settled = new Set<string>();
  /** Settled by us, after a restart. */
  spentAfterwards = 0;

  add(lines: readonly Line[]): void {
    for (const line of lines) {
      if (line.admit) this.tried.add(line.admit);
      if (line.settle) this.settling.set(line.settle, line.used ?? 0);
      if (line.settled) this.settled.add(line.settled);
      const { admitted, tokens = 0, episode = "", session = "" } = line;
      if (admitted) this.admitted.set(admitted, { tokens, episode, session });
    }
  }
}

test("kill -9 in a storm of admissions and settlements loses nothing that was acknowledged, and no limit is passed", async () => {
  home = new EmbeddedHome();
  const book = new Book();
  for (const [round, linesBeforeKill] of [40, 900, 3000, 1500].entries()) {
    await using child = new StoreProcess("storm", home.dir, String(round));
    await child.written(linesBeforeKill);
    await child.kill();
    book.add(child.lines);

    await using store = openEmbeddedStore({
      home: { dir: home.dir },
      clock: systemClock,
      bootClock: systemBootClock(),
      random: randomBytes,
      log: silentLogger,
      sessionTTLSeconds: 7200,
    });
    const open = new Map((await store.openReservations()).map((r) => [r.requestId, r]));
    for (const [id, { tokens, episode, session }] of book.admitted) {
      if (!book.settling.has(id)) expect(open.get(id), `admitted: ${id}`).toMatchObject({ tokens, episodeId: episode });
      expect((await store.episode("t", episode))?.state).toBe("active");
      expect(store.binding("t", session)).toBeDefined();
    }
    for (const id of open.keys()) expect(book.tried.has(id), `never asked for: ${id}`).toBe(true);

    // What was settled a moment ago is settled or open again, to be proved; never half of each.
    let spent = book.spentAfterwards;
    for (const [id, used] of book.settling) if (!open.has(id)) spent += used;
    let reserved = 0;
    for (const { tokens } of open.values()) reserved += tokens;
    const pool = await store.budget(POOL, "t");
    expect([pool.spent, pool.reserved]).toEqual([spent, reserved]);
    expect(spent + reserved).toBeLessThanOrEqual(POOL.limit);
    const episodes = await store.episodes("t");
    for (const e of episodes) expect(e.tokensUsed + e.tokensReserved).toBeLessThanOrEqual(e.settings.budgetTokens);
    expect(episodes.reduce((sum, e) => sum + e.tokensUsed + e.tokensReserved, 0)).toBe(spent + reserved);

    // A router that comes back settles what was left open; twice counts once.
    for (const { requestId, tokens } of open.values()) {
      const used = Math.floor(tokens / 4);
      for (let i = 0; i < 2; i++)
        await store.settle(requestId, { promptTokens: used, completionTokens: 0, cachedTokens: 0 });
      book.spentAfterwards += used;
      book.settling.delete(requestId);
      book.admitted.delete(requestId);
    }
    expect(await store.budget(POOL, "t")).toMatchObject({ reserved: 0 });
  }
  expect(book.settled.size).toBeGreaterThan(500);
});

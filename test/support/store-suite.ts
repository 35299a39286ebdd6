import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Usage } from "../../src/api/backend.ts";
import { AUDIT_KEPT, AUDIT_PAGE, type AuditEntry } from "../../src/core/audit.ts";
import type {
  AdmitRequest,
  BudgetClaim,
  Episode,
  EpisodeEvent,
  EpisodeSettings,
  StateStore,
} from "../../src/core/store.ts";

/** Where a store lives, and the time it lives in. */
export interface StoreHome extends AsyncDisposable {
  /** Opens it; again after a `close`, with what it held. */
  open(): Promise<StateStore>;
  /** Lets time pass, and what is due happen; also while it is closed. */
  advance(ms: number): Promise<void>;
  /** Steps the wall clock alone. */
  stepWall(ms: number): void;
  wall(): number;
}

const DAY = 86_400;
export const SETTINGS: EpisodeSettings = {
  timeoutSeconds: 100,
  progressExtendSeconds: 10,
  maxTimeoutSeconds: 125,
  idleTimeoutSeconds: 0,
  retainSeconds: 60,
  budgetTokens: 0,
};

const POOL: BudgetClaim = { scope: "pool", id: "pool", limit: 1000, windowSeconds: DAY };
const KEY: BudgetClaim = { scope: "key", id: "k", limit: 1000 };

export function usage(promptTokens: number, completionTokens = 0, cachedTokens = 0): Usage {
  return { promptTokens, completionTokens, cachedTokens };
}

let requests = 0;
export function ask(request: Partial<AdmitRequest> = {}): AdmitRequest {
  return {
    requestId: `req_${++requests}`,
    tenant: "t",
    instance: "0",
    claims: [],
    worstCase: 100,
    minimum: 1,
    clamp: false,
    ...request,
  };
}

/** Tokens used and reserved, as a journal tells them. */
function sumOf(entries: readonly AuditEntry[]): [used: number, reserved: number] {
  let [used, reserved] = [0, 0];
  for (const { kind, data } of entries) {
    if (kind === "admit") reserved += Number(data.reserved);
    if (kind !== "settle") continue;
    reserved -= Number(data.reserved);
    used += Number(data.used);
  }
  return [used, reserved];
}

/** What every StateStore must hold to. `makeHome` is called for each test. */
export function storeSuite(name: string, makeHome: () => Promise<StoreHome>): void {
  describe(name, () => {
    let home: StoreHome;
    let store: StateStore;
    beforeEach(async () => {
      home = await makeHome();
      store = await home.open();
    });
    afterEach(async () => {
      await store.close();
      await home[Symbol.asyncDispose]();
    });
    const reopen = async (downMs = 0) => {
      await store.close();
      if (downMs > 0) await home.advance(downMs);
      store = await home.open();
    };
    const admit = async (request: AdmitRequest) => {
      const admission = await store.admit(request);
      if (!admission.ok) throw new Error(`denied: ${JSON.stringify(admission)}`);
      return admission;
    };
    const inEpisode = (id: string, settings: Partial<EpisodeSettings> = {}) => ({
      episode: { id, settings: { ...SETTINGS, ...settings } },
    });
    const episode = async (id: string, tenant = "t"): Promise<Episode> => {
      const found = await store.episode(tenant, id);
      if (!found) throw new Error(`no episode ${id}`);
      return found;
    };
    const left = async (claim: BudgetClaim, tenant = "t") => {
      const { spent, reserved } = await store.budget(claim, tenant);
      return [spent, reserved];
    };

    describe("budgets", () => {
      test("200 concurrent requests on a budget that fits 10: exactly those", async () => {
        const claim = { ...KEY, limit: 1099 };
        const all = await Promise.all(Array.from({ length: 200 }, () => store.admit(ask({ claims: [claim] }))));
        expect(all.filter((a) => a.ok)).toHaveLength(10);
        const denial = all.find((a) => !a.ok);
        expect(denial).toEqual({
          ok: false,
          code: "budget_exhausted",
          budget: { scope: "key", id: "k", limit: 1099, spent: 0, reserved: 1000 },
        });
        expect(await left(claim)).toEqual([0, 1000]);
      });

      test("reserves in every budget or in none", async () => {
        const tight = { ...POOL, limit: 150 };
        const request = { claims: [KEY, tight], ...inEpisode("e", { budgetTokens: 500 }) };
        await admit(ask(request));
        expect(await store.admit(ask(request))).toMatchObject({ code: "budget_exhausted", budget: { scope: "pool" } });
        expect(await left(KEY)).toEqual([0, 100]);
        expect((await episode("e")).tokensReserved).toBe(100);
      });

      test("spends what was used, gives the rest back, and settles once", async () => {
        const { requestId } = ask();
        const admission = await admit(ask({ requestId, claims: [KEY] }));
        expect(admission).toMatchObject({
          reserved: 100,
          budgets: [{ scope: "key", limit: 1000, spent: 0, reserved: 100 }],
        });
        await store.settle(requestId, usage(20, 10, 15));
        expect(await left(KEY)).toEqual([30, 0]);
        await store.settle(requestId, usage(20, 10));
        await store.settle("req_unknown", usage(20, 10));
        expect(await left(KEY)).toEqual([30, 0]);
        expect(await store.openReservations()).toEqual([]);
      });

      test("an admission shows the limits that apply, not what is only counted", async () => {
        const { budgets } = await admit(ask({ claims: [KEY], ...inEpisode("e") }));
        expect(budgets.map((b) => b.scope)).toEqual(["key"]);
        const limited = await admit(ask({ claims: [KEY], ...inEpisode("f", { budgetTokens: 500 }) }));
        expect(limited.budgets).toContainEqual({ scope: "episode", id: "f", limit: 500, spent: 0, reserved: 100 });
      });

      test("a request that never reached an instance costs nothing", async () => {
        const request = ask({ claims: [KEY] });
        await admit(request);
        await store.settle(request.requestId, null);
        expect(await left(KEY)).toEqual([0, 0]);
      });

      test("more than was reserved is charged in full", async () => {
        const request = ask({ claims: [KEY] });
        await admit(request);
        await store.settle(request.requestId, usage(100, 50));
        expect(await left(KEY)).toEqual([150, 0]);
      });

      test("the same request id is one admission, for one caller, and is remembered where it went last", async () => {
        const request = ask({ claims: [KEY], ...inEpisode("e") });
        const [first, second] = await Promise.all([admit(request), admit(request)]);
        expect(second).toMatchObject({ reserved: first.reserved });
        await admit({ ...request, instance: "3" });
        expect(await left(KEY)).toEqual([0, 100]);
        expect(await store.openReservations()).toMatchObject([{ instance: "3" }]);
        await expect(store.admit({ ...request, tenant: "u" })).rejects.toMatchObject({ code: "invalid_request" });
        await store.settle(request.requestId, usage(40));
        await admit(request);
        expect(await left(KEY)).toEqual([40, 100]);
      });

      test("with clamp, reserves what is left, down to the minimum", async () => {
        const claim = { ...KEY, limit: 150 };
        await admit(ask({ claims: [claim] }));
        const clamped = { claims: [claim], clamp: true };
        expect(await store.admit(ask({ ...clamped, minimum: 51 }))).toMatchObject({ ok: false });
        expect(await admit(ask({ ...clamped, minimum: 50 }))).toMatchObject({ reserved: 50 });
        expect(await left(claim)).toEqual([0, 150]);
      });

      test.each([0, -5, 1.5, Number.NaN, Number.POSITIVE_INFINITY])("refuses a size of %s", async (size) => {
        await expect(store.admit(ask({ worstCase: size }))).rejects.toMatchObject({ code: "invalid_request" });
        await expect(store.admit(ask({ claims: [{ ...KEY, limit: size }] }))).rejects.toMatchObject({
          code: "invalid_request",
        });
      });

      test("a role's tokens count per episode, and without one per tenant and day", async () => {
        const role: BudgetClaim = { scope: "role", id: "coder", limit: 150 };
        const within = (id: string) => ask({ claims: [{ ...role, episodeId: id }], ...inEpisode(id) });
        const without = (tenant: string) => ask({ tenant, claims: [{ ...role, windowSeconds: DAY }] });
        await admit(within("e"));
        expect((await store.admit(within("e"))).ok).toBe(false);
        await admit(within("f"));
        await admit(without("t"));
        expect((await store.admit(without("t"))).ok).toBe(false);
        await admit(without("u"));
        await home.advance(DAY * 1000);
        await admit(without("t"));
      });

      test("a pool's tokens count over all tenants", async () => {
        const pool = { ...POOL, limit: 150 };
        await admit(ask({ tenant: "t", claims: [pool] }));
        expect((await store.admit(ask({ tenant: "u", claims: [pool] }))).ok).toBe(false);
        expect(await left(pool, "u")).toEqual([0, 100]);
      });

      test("a request is charged to the window that admitted it, and says when the next one opens", async () => {
        const request = ask({ claims: [POOL] });
        const { budgets } = await admit(request);
        const resetSeconds = budgets[0]?.resetSeconds ?? 0;
        expect(home.wall() / 1000 + resetSeconds).toBe((Math.floor(home.wall() / 1000 / DAY) + 1) * DAY);
        await home.advance(resetSeconds * 1000);
        expect(await left(POOL)).toEqual([0, 0]);
        await store.settle(request.requestId, usage(80));
        expect(await left(POOL)).toEqual([0, 0]);
      });

      test("a window that was left does not open again when the clock is set back, also after a restart", async () => {
        const hour = { ...POOL, windowSeconds: 3600, limit: 100 };
        await admit(ask({ claims: [hour] }));
        home.stepWall(3_600_000);
        const next = ask({ claims: [hour] });
        await admit(next);
        home.stepWall(-3_600_000);
        expect((await store.admit(ask({ claims: [hour] }))).ok).toBe(false);
        await reopen();
        expect((await store.admit(ask({ claims: [hour] }))).ok).toBe(false);
        await store.settle(next.requestId, usage(100));
        await reopen();
        expect((await store.admit(ask({ claims: [hour] }))).ok).toBe(false);
      });
    });

    describe("episodes", () => {
      test("an admission starts an unknown one; a denied admission does not", async () => {
        const small = inEpisode("e", { budgetTokens: 99 });
        expect(await store.admit(ask(small))).toMatchObject({ budget: { scope: "episode", id: "e", limit: 99 } });
        expect(await store.episode("t", "e")).toBeUndefined();
        const { episode } = await admit(ask(inEpisode("e", { budgetTokens: 250 })));
        expect(episode).toMatchObject({
          id: "e",
          state: "active",
          remainingMs: 100_000,
          limitMs: 100_000,
          tokensReserved: 100,
          tokensUsed: 0,
        });
        // The settings of its start hold.
        expect((await store.admit(ask({ worstCase: 151, ...inEpisode("e", { budgetTokens: 9999 }) }))).ok).toBe(false);
      });

      test("starts one by itself, with a name when it has none; a taken name is refused", async () => {
        const named = await store.startEpisode("t", { id: "e", settings: SETTINGS, metadata: { task: "1" } });
        expect(named).toMatchObject({
          id: "e",
          metadata: { task: "1" },
          startedAt: home.wall(),
          lastProgress: { event: "started" },
        });
        const ids = [
          await store.startEpisode("t", { settings: SETTINGS }),
          await store.startEpisode("t", { settings: SETTINGS }),
        ];
        for (const { id } of ids) expect(id).toMatch(/^ep_[0-9a-f]{32}$/);
        expect(ids[0]?.id).not.toBe(ids[1]?.id);
        await expect(store.startEpisode("t", { id: "e", settings: SETTINGS })).rejects.toMatchObject({
          code: "invalid_request",
        });
        await store.endEpisode("t", "e", "finished");
        await expect(store.startEpisode("t", { id: "e", settings: SETTINGS })).rejects.toMatchObject({
          code: "episode_ended",
        });
      });

      test("progress near the deadline extends it, up to start + max", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        await home.advance(50_000);
        expect(await store.progress("t", "e", "patch")).toMatchObject({ remainingMs: 50_000, extensions: 0 });
        const remaining: number[] = [];
        for (const ms of [45_000, 10_000, 10_000]) {
          await home.advance(ms);
          remaining.push((await store.progress("t", "e", "test_execution", "3 of 5")).remainingMs);
        }
        expect(remaining).toEqual([15_000, 15_000, 10_000]);
        await home.advance(10_000);
        expect(await episode("e")).toMatchObject({
          state: "ended",
          endReason: "max_deadline",
          extensions: 3,
          remainingMs: 0,
          limitMs: 125_000,
        });
      });

      test("a step of the wall clock moves no deadline", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        home.stepWall(90_000_000);
        expect(await episode("e")).toMatchObject({ state: "active", remainingMs: 100_000 });
        home.stepWall(-180_000_000);
        await home.advance(100_000);
        expect(await episode("e")).toMatchObject({ state: "ended", endReason: "deadline" });
      });

      test("ends of itself, is told to those who listen, and keeps its id for a while", async () => {
        const told: [string, EpisodeEvent["kind"], string | undefined][] = [];
        store.onEpisodeEvent((e, event) => told.push([e.id, event.kind, e.endReason]));
        await admit(ask(inEpisode("e")));
        await home.advance(100_000);
        expect(told).toEqual([
          ["e", "started", undefined],
          ["e", "ended", "deadline"],
        ]);
        expect(await store.admit(ask(inEpisode("e")))).toMatchObject({
          ok: false,
          code: "episode_ended",
          episode: { id: "e" },
        });
        await expect(store.progress("t", "e", "patch")).rejects.toMatchObject({ code: "episode_ended" });
        await home.advance(59_999);
        expect((await episode("e")).state).toBe("ended");
        await home.advance(1);
        expect(await store.episode("t", "e")).toBeUndefined();
        expect((await admit(ask(inEpisode("e")))).episode).toMatchObject({ tokensUsed: 0, tokensReserved: 100 });
      });

      test("ends once: the first reason stays", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        const ends = await Promise.all([
          store.endEpisode("t", "e", "finished"),
          store.endEpisode("t", "e", "cancelled"),
        ]);
        expect(ends.map((e) => e.endReason)).toEqual(["finished", "finished"]);
        expect((await store.episodeEvents("t", "e", 0)).filter((e) => e.kind === "ended")).toHaveLength(1);
        await expect(store.endEpisode("t", "f", "finished")).rejects.toMatchObject({ code: "not_found" });
        await expect(store.progress("t", "f", "patch")).rejects.toMatchObject({ code: "not_found" });
      });

      test("ends as idle when nothing runs and nothing happens", async () => {
        const told: string[] = [];
        store.onEpisodeEvent((e, event) => event.kind === "ended" && told.push(e.id));
        await admit(ask({ ...inEpisode("quiet", { idleTimeoutSeconds: 20 }), requestId: "quiet" }));
        await home.advance(30_000);
        await store.settle("quiet", null);
        const request = ask(inEpisode("e", { idleTimeoutSeconds: 20 }));
        await admit(request);
        await home.advance(60_000);
        // Nobody asked about it.
        expect(told).toEqual(["quiet"]);
        expect((await episode("e")).state).toBe("active");
        await store.settle(request.requestId, null);
        await home.advance(19_999);
        expect((await episode("e")).state).toBe("active");
        await home.advance(1);
        expect((await episode("e")).endReason).toBe("idle");
      });

      test("completion tokens are progress; after the end they are only counted", async () => {
        const [first, second, third] = [ask(inEpisode("e")), ask(inEpisode("e")), ask(inEpisode("e"))];
        for (const request of [first, second, third]) await admit(request);
        await home.advance(95_000);
        await store.settle(first.requestId, usage(30));
        expect(await episode("e")).toMatchObject({ extensions: 0, lastProgress: { event: "started" } });
        await store.settle(second.requestId, usage(30, 5));
        expect(await episode("e")).toMatchObject({
          extensions: 1,
          lastProgress: { event: "llm_response", at: home.wall() },
        });
        await store.endEpisode("t", "e", "finished");
        await store.settle(third.requestId, usage(10, 10));
        expect(await episode("e")).toMatchObject({ extensions: 1, tokensUsed: 85, tokensReserved: 0 });
      });

      test("events are numbered without gaps, told in order, and read from any point", async () => {
        const told: EpisodeEvent[] = [];
        const stop = store.onEpisodeEvent((_, event) => told.push(event));
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        await home.advance(95_000);
        await store.progress("t", "e", "patch", "src/a.ts");
        await store.endEpisode("t", "e", "cancelled");
        const kept = await store.episodeEvents("t", "e", 0);
        expect(kept.map((e) => e.kind)).toEqual(["started", "progress", "extended", "ended"]);
        expect(kept.map((e) => e.seq)).toEqual([1, 2, 3, 4]);
        expect(kept[1]?.data).toEqual({ event: "patch", detail: "src/a.ts" });
        expect(kept[2]?.data).toEqual({ extensions: 1, time_remaining_s: 15 });
        expect(kept[3]?.data).toEqual({ reason: "cancelled", tokens_used: 0 });
        await home.advance(0);
        expect(told).toEqual(kept);
        expect((await store.episodeEvents("t", "e", 3)).map((e) => e.seq)).toEqual([4]);
        stop();
        await store.startEpisode("t", { id: "f", settings: SETTINGS });
        expect(told).toHaveLength(4);
      });

      test("whoever asks sees what was done before, acknowledged or not", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        void store.progress("t", "e", "patch");
        expect(await store.episodeEvents("t", "e", 0)).toHaveLength(2);
      });

      test("keeps a bounded number of events, the latest", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        for (let i = 0; i < 400; i++) void store.progress("t", "e", "token_usage");
        await store.progress("t", "e", "patch");
        const kept = await store.episodeEvents("t", "e", 0);
        expect(kept.at(-1)?.seq).toBe(402);
        expect(kept[0]?.seq).toBeGreaterThan(1);
        expect(kept.map((e) => e.seq)).toEqual(kept.map((_, i) => 402 - kept.length + 1 + i));
      });

      test("belongs to its tenant", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        expect(await store.episode("u", "e")).toBeUndefined();
        expect(await store.episodes("u")).toEqual([]);
        expect(await store.episodeEvents("u", "e", 0)).toEqual([]);
        await expect(store.progress("u", "e", "patch")).rejects.toMatchObject({ code: "not_found" });
        await expect(store.endEpisode("u", "e", "cancelled")).rejects.toMatchObject({ code: "not_found" });
        await store.startEpisode("u", { id: "e", settings: SETTINGS });
        await store.endEpisode("u", "e", "finished");
        expect((await episode("e")).state).toBe("active");
        expect((await store.activeEpisodes()).map((e) => [e.tenant, e.id])).toEqual([["t", "e"]]);
        const asked = ["e", "f", "none"].flatMap((id) => ["t", "u"].map((tenant) => ({ tenant, id })));
        const found = await store.episodesById(asked);
        expect(found.map((e) => [e.tenant, e.id, e.state])).toEqual([
          ["t", "e", "active"],
          ["u", "e", "ended"],
        ]);
      });
    });

    describe("the journal of an episode", () => {
      const lines = async (id: string, tenant = "t") => {
        const entries = await store.audit(tenant, id, 0);
        return entries.map(({ kind, data }): [string, object] => [kind, data]);
      };
      const budget = { budgetTokens: 250, timeoutSeconds: 100, progressExtendSeconds: 10, maxTimeoutSeconds: 105 };
      const session = { tenant: "t", key: "s", id: "s", role: "coder" };

      test("tells every decision in its order, also after a restart, until the episode is forgotten", async () => {
        const began = home.wall();
        const first = ask({ ...inEpisode("e", budget), role: "coder", session: { ...session, instance: "0" } });
        await admit(first);
        for (let i = 0; i < 3; i++) {
          expect((await store.admit(ask({ ...inEpisode("e", budget), worstCase: 151 + i }))).ok).toBe(false);
        }
        await store.rebind(first.requestId, { instance: "1" }, { ...session, instance: "1" });
        await home.advance(95_000);
        await store.settle(first.requestId, usage(20, 10, 5));
        const second = ask({
          ...inEpisode("e", budget),
          ...{ worstCase: 50, session: { ...session, instance: "2", boundTo: "1" } },
        });
        await admit(second);
        await store.settle(second.requestId, null);
        const open = ask({ ...inEpisode("e", budget), worstCase: 40, instance: "3" });
        await admit(open);
        await reopen();
        await home.advance(10_000);
        await store.settle(open.requestId, usage(40));
        const [a, b, c] = [first.requestId, second.requestId, open.requestId];
        const of = { scope: "episode", id: "e", limit: 250 };
        const want: [string, object][] = [
          ["start", { timeout_s: 100, max_timeout_s: 105, budget_tokens: 250 }],
          ["admit", { request: a, role: "coder", session: "s", instance: "0", reserved: 100 }],
          ["deny", { ...of, spent: 0, reserved: 100, asked: 153, count: 3 }],
          ["rebind", { request: a, session: "s", from: "0", to: "1" }],
          ["settle", { request: a, instance: "1", reserved: 100, used: 30, prompt: 20, completion: 10, cached: 5 }],
          ["extend", { extensions: 1, time_remaining_s: 10, cause: "llm_response" }],
          ["admit", { request: b, session: "s", instance: "2", reserved: 50 }],
          ["rebind", { request: b, session: "s", from: "1", to: "2" }],
          ["settle", { request: b, instance: "2", reserved: 50, used: 0 }],
          ["admit", { request: c, instance: "3", reserved: 40 }],
          ["expire", { reason: "max_deadline", tokens_used: 30 }],
          [
            "settle",
            {
              request: c,
              instance: "3",
              reserved: 40,
              used: 40,
              prompt: 40,
              completion: 0,
              cached: 0,
              recovered: true,
            },
          ],
        ];
        expect(await lines("e")).toEqual(want);
        await reopen();
        expect(await lines("e")).toEqual(want);
        const entries = await store.audit("t", "e", 0);
        expect(entries.map((e) => e.seq)).toEqual([...entries.map((e) => e.seq)].sort((x, y) => x - y));
        expect(entries[10]).toMatchObject({ at: began + 105_000 });
        expect(await store.audit("t", "e", entries[8]?.seq ?? 0)).toEqual(entries.slice(9));
        expect(await lines("e", "u")).toEqual([]);
        await home.advance(60_000);
        expect(await lines("e")).toEqual([]);
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        await store.endEpisode("t", "e", "cancelled");
        expect((await lines("e")).map(([kind]) => kind)).toEqual(["start", "end"]);
      });

      test("a denied request of an unknown episode writes nothing; denials of a spent budget are told, too", async () => {
        const request = inEpisode("e", { budgetTokens: 100 });
        await store.admit(ask({ ...request, worstCase: 101 }));
        expect(await lines("e")).toEqual([]);
        const all = ask(request);
        await admit(all);
        await store.settle(all.requestId, usage(90));
        for (let i = 0; i < 5; i++) expect((await store.admit(ask(request))).ok).toBe(false);
        await home.advance(1000);
        const denial = { scope: "episode", id: "e", limit: 100, spent: 90, reserved: 0, asked: 100, count: 5 };
        expect((await lines("e")).at(-1)).toEqual(["deny", denial]);
      });

      test("is bounded: the oldest entries go", async () => {
        await store.startEpisode("t", { id: "e", settings: SETTINGS });
        for (let i = 0; i < 20; i++) {
          const requests = Array.from({ length: AUDIT_KEPT / 40 }, () => ask(inEpisode("e")));
          await Promise.all(requests.map(admit));
          await Promise.all(requests.map(({ requestId }) => store.settle(requestId, null)));
        }
        const kept: AuditEntry[] = [];
        for (let after = 0; ; after = kept.at(-1)?.seq ?? 0) {
          const page = await store.audit("t", "e", after);
          if (page.length === 0) break;
          expect(page.length).toBeLessThanOrEqual(AUDIT_PAGE);
          kept.push(...page);
        }
        expect(kept).toHaveLength(AUDIT_KEPT);
        expect(kept[0]).toMatchObject({ seq: 2, kind: "admit" });
        expect(kept.at(-1)).toMatchObject({ seq: AUDIT_KEPT + 1, kind: "settle" });
      });
    });

    describe("sessions", () => {
      const session = (key: string, instance = "0", tenant = "t") => ({
        tenant,
        key,
        id: key,
        role: "coder",
        instance,
      });

      test("a session is bound with its admission and is its tenant's alone", async () => {
        await admit(ask({ session: { ...session("s"), episodeId: "e" } }));
        expect(store.binding("t", "s")).toEqual({ ...session("s"), episodeId: "e", lastUsedAt: home.wall() });
        expect(store.binding("u", "s")).toBeUndefined();
        expect(await store.dropBinding("u", "s")).toBe(false);
        expect(await store.bindings("u")).toEqual([]);
        expect(await store.dropBinding("t", "s")).toBe(true);
        expect(await store.dropBinding("t", "s")).toBe(false);
      });

      test("a denied admission binds nothing", async () => {
        await store.admit(ask({ claims: [{ ...KEY, limit: 1 }], session: session("s") }));
        expect(await store.bindings("t")).toEqual([]);
      });

      test("stays where another router has bound it since this one looked", async () => {
        const first = ask({ claims: [KEY], session: session("s", "1") });
        expect(await admit(first)).toMatchObject({ instance: "1" });
        const second = ask({ claims: [KEY], session: session("s", "2") });
        expect(await admit(second)).toMatchObject({ instance: "1" });
        expect((await store.openReservations()).map((r) => r.instance)).toEqual(["1", "1"]);
        // This one knows where it was, and has a reason.
        const moved = { ...session("s", "2"), boundTo: "1" };
        expect(await admit(ask({ claims: [KEY], session: moved }))).toMatchObject({ instance: "2" });
        expect(store.binding("t", "s")?.instance).toBe("2");
        expect(await store.sessionCounts()).toEqual(new Map([["2", 1]]));
      });

      test("moves with its request, which is remembered where it went", async () => {
        const request = ask({ claims: [KEY], session: session("s") });
        await admit(request);
        await admit(ask({ session: session("r", "1") }));
        await store.rebind(request.requestId, { instance: "2" }, session("s"));
        expect(store.binding("t", "s")?.instance).toBe("2");
        expect(await store.openReservations()).toMatchObject([{ instance: "2" }]);
        expect(await store.sessionCounts()).toEqual(
          new Map([
            ["1", 1],
            ["2", 1],
          ]),
        );
      });

      test("the process that a request is for is remembered as long as that is known, also after a restart", async () => {
        const [stays, moves, strays] = [ask({ claims: [KEY] }), ask({ claims: [KEY] }), ask({ claims: [KEY] })];
        const waits = ask({ claims: [KEY] });
        await admit(waits);
        await store.rebind(waits.requestId, { instance: "0", boot: "c" });
        for (const request of [stays, moves, strays]) await admit({ ...request, boot: "a" });
        await store.rebind(moves.requestId, { instance: "1", boot: "b" });
        await store.rebind(strays.requestId, { instance: "1" });
        await admit(ask({ session: session("s", "2") }));
        // It was sent for the session's home, of which this router had not heard.
        const led = ask({ claims: [KEY], session: session("s", "0"), boot: "a" });
        await admit(led);
        const known = async () =>
          new Map((await store.openReservations()).map((r) => [r.requestId, [r.instance, r.boot]]));
        const want = new Map([
          [stays.requestId, ["0", "a"]],
          [moves.requestId, ["1", "b"]],
          [strays.requestId, ["1", undefined]],
          [led.requestId, ["2", undefined]],
          [waits.requestId, ["0", "c"]],
        ]);
        expect(await known()).toEqual(want);
        await reopen();
        expect(await known()).toEqual(want);
      });

      test("is forgotten when it was not used for its time, counted from its last use", async () => {
        await admit(ask({ session: session("s") }));
        await admit(ask({ session: session("r") }));
        await home.advance(3_600_000);
        await admit(ask({ session: session("s") }));
        await home.advance(3_600_000);
        expect((await store.bindings("t")).map((b) => b.id)).toEqual(["s"]);
        await home.advance(3_600_000);
        expect(await store.bindings("t")).toEqual([]);
        expect(store.binding("t", "s")).toBeUndefined();
      });
    });

    describe("opened again", () => {
      test("has its episodes, tokens, events, reservations and sessions", async () => {
        const claims: BudgetClaim[] = [KEY, { scope: "role", id: "coder", limit: 500, episodeId: "e" }, POOL];
        const session = { tenant: "t", key: "s", id: "s", role: "coder", instance: "1", episodeId: "e" };
        const request = { claims, session, instance: "1", ...inEpisode("e", { budgetTokens: 1000 }) };
        const [done, open] = [ask(request), ask({ ...request, worstCase: 70 })];
        await admit(done);
        await admit(open);
        await home.advance(95_000);
        await store.settle(done.requestId, usage(20, 10));
        const before = {
          episode: await episode("e"),
          events: await store.episodeEvents("t", "e", 0),
          budgets: await Promise.all(claims.map((claim) => store.budget(claim, "t"))),
          bindings: await store.bindings("t"),
          open: await store.openReservations(),
        };
        expect(before.open).toMatchObject([
          { requestId: open.requestId, tenant: "t", instance: "1", tokens: 70, episodeId: "e" },
        ]);
        expect(before.episode).toMatchObject({
          tokensUsed: 30,
          tokensReserved: 70,
          extensions: 1,
          remainingMs: 15_000,
        });
        await reopen();
        await reopen();
        expect({
          episode: await episode("e"),
          events: await store.episodeEvents("t", "e", 0),
          budgets: await Promise.all(claims.map((claim) => store.budget(claim, "t"))),
          bindings: await store.bindings("t"),
          open: await store.openReservations(),
        }).toEqual(before);
        await store.settle(open.requestId, usage(70));
        expect(await episode("e")).toMatchObject({ tokensUsed: 100, tokensReserved: 0 });
        expect(await store.openReservations()).toEqual([]);
      });

      test("downtime has passed for its episodes; what ran out in it has ended then, for its own reason", async () => {
        const start = (id: string, settings: Partial<EpisodeSettings>) =>
          store.startEpisode("t", { id, settings: { ...SETTINGS, ...settings } });
        await start("long", { timeoutSeconds: 1000, maxTimeoutSeconds: 2000 });
        await start("short", {});
        await start("max", { timeoutSeconds: 50, maxTimeoutSeconds: 50 });
        await start("idle", { idleTimeoutSeconds: 30, retainSeconds: 1000 });
        await start("gone", { timeoutSeconds: 10, retainSeconds: 5 });
        const began = home.wall();
        await home.advance(5_000);
        await store.progress("t", "short", "patch");
        await reopen(100_000);
        expect(await episode("long")).toMatchObject({ state: "active", remainingMs: 895_000 });
        expect((await episode("short")).endReason).toBe("deadline");
        expect((await episode("max")).endReason).toBe("max_deadline");
        expect((await episode("idle")).endReason).toBe("idle");
        expect(await store.episode("t", "gone")).toBeUndefined();
        const [ended] = (await store.episodeEvents("t", "idle", 0)).slice(-1);
        expect(ended).toMatchObject({ kind: "ended", at: began + 30_000, data: { reason: "idle" } });
        await home.advance(55_001);
        expect(await store.episode("t", "short")).toBeUndefined();
      });

      test("idleness counts from the last admission before", async () => {
        const idle = inEpisode("e", { idleTimeoutSeconds: 50 });
        await store.startEpisode("t", { ...idle.episode });
        await home.advance(40_000);
        await admit(ask(idle));
        await reopen(20_000);
        expect((await episode("e")).state).toBe("active");
        await home.advance(30_000);
        expect((await episode("e")).endReason).toBe("idle");
      });

      test("sessions have their last use, episode and age", async () => {
        const session = (id: string, episodeId: string) => ({
          tenant: "t",
          key: id,
          id,
          role: "coder",
          instance: "0",
          episodeId,
        });
        const use = (id: string, episodeId: string) => admit(ask({ session: session(id, episodeId) }));
        await use("s", "e");
        await use("r", "e");
        await home.advance(3_600_000);
        await use("s", "e");
        await use("r", "e");
        await home.advance(1);
        await use("r", "f");
        await reopen(3_600_000);
        expect((await store.bindings("t")).map((b) => [b.id, b.episodeId])).toEqual([
          ["s", "e"],
          ["r", "f"],
        ]);
        await reopen(3_600_000);
        expect(await store.bindings("t")).toEqual([]);
      });

      test("a reservation of an episode that is forgotten never counts for another", async () => {
        const request = ask(inEpisode("e", { timeoutSeconds: 10, retainSeconds: 5 }));
        await admit(request);
        await reopen(20_000);
        await reopen();
        await store.startEpisode("t", { id: "f", settings: SETTINGS });
        await reopen();
        expect((await episode("f")).tokensReserved).toBe(0);
        await store.settle(request.requestId, usage(50));
        expect((await episode("f")).tokensUsed).toBe(0);
        expect(await store.openReservations()).toEqual([]);
      });

      test("tells apart what a router before left open from what this one runs", async () => {
        const [before, now] = [ask({ claims: [KEY] }), ask({ claims: [KEY] })];
        await admit(before);
        expect(await store.abandonedReservations()).toEqual([]);
        await reopen();
        await admit(now);
        expect((await store.abandonedReservations()).map((r) => r.requestId)).toEqual([before.requestId]);
        expect(store.holds(now.requestId)).toBe(true);
        expect(store.heartbeatDuty()).toBe(true);
      });

      test("what a process before left open is no progress and no activity when it is settled", async () => {
        const request = ask(inEpisode("e", { idleTimeoutSeconds: 50 }));
        await admit(request);
        await reopen(20_000);
        await store.settle(request.requestId, usage(30, 30));
        expect(await episode("e")).toMatchObject({ tokensUsed: 60, lastProgress: { event: "started" } });
        await home.advance(30_000);
        expect((await episode("e")).endReason).toBe("idle");
      });
    });

    test("closed, it refuses everything", async () => {
      await store.close();
      await store.close();
      for (const call of [
        () => store.admit(ask()),
        () => store.settle("req", null),
        () => store.episodes("t"),
        () => store.startEpisode("t", { settings: SETTINGS }),
        async () => store.binding("t", "s"),
        () => store.budget(KEY, "t"),
        () => store.openReservations(),
      ]) {
        await expect(call()).rejects.toMatchObject({ code: "store_unavailable" });
      }
    });

    test("spent plus reserved never passes a limit, and every sum is right, whatever order things happen in", async () => {
      const op = fc.oneof(
        {
          weight: 6,
          arbitrary: fc.record({
            op: fc.constant("admit" as const),
            tenant: fc.constantFrom("t", "u"),
            episode: fc.constantFrom(undefined, "e", "f"),
            worstCase: fc.integer({ min: 1, max: 120 }),
            clamp: fc.boolean(),
          }),
        },
        {
          weight: 5,
          arbitrary: fc.record({
            op: fc.constant("settle" as const),
            which: fc.nat(),
            used: fc.integer({ min: 0, max: 120 }),
          }),
        },
        { weight: 1, arbitrary: fc.record({ op: fc.constant("end" as const), episode: fc.constantFrom("e", "f") }) },
        { weight: 1, arbitrary: fc.record({ op: fc.constant("reopen" as const) }) },
      );
      const limits = { pool: 400, episode: 250, role: 150 };
      // Ops of one batch run at the same time.
      const batches = fc.array(fc.array(op, { minLength: 1, maxLength: 6 }), { maxLength: 15 });
      await fc.assert(
        fc.asyncProperty(batches, async (batches) => {
          await store.close();
          await home[Symbol.asyncDispose]();
          home = await makeHome();
          store = await home.open();
          const open: { id: string; reserved: number; keys: string[] }[] = [];
          const spent = new Map<string, number>();
          const pool = { ...POOL, limit: limits.pool };
          const roleClaim = (episodeId: string | undefined): BudgetClaim => ({
            ...{ scope: "role", id: "coder", limit: limits.role },
            ...(episodeId === undefined ? { windowSeconds: DAY } : { episodeId }),
          });
          for (const batch of batches) {
            await Promise.all(
              batch.map(async (o) => {
                if (o.op === "admit") {
                  const { tenant, worstCase, clamp } = o;
                  const claims = [pool, roleClaim(o.episode)];
                  const within = o.episode === undefined ? {} : inEpisode(o.episode, { budgetTokens: limits.episode });
                  const request = ask({
                    tenant,
                    worstCase,
                    clamp,
                    minimum: Math.min(worstCase, 10),
                    claims,
                    ...within,
                  });
                  const admission = await store.admit(request);
                  if (!admission.ok) return;
                  expect(admission.reserved).toBeLessThanOrEqual(worstCase);
                  const keys = [
                    "pool",
                    `role ${tenant} ${o.episode}`,
                    ...(o.episode ? [`episode ${tenant} ${o.episode}`] : []),
                  ];
                  open.push({ id: request.requestId, reserved: admission.reserved, keys });
                } else if (o.op === "settle") {
                  const [one] = open.splice(o.which % Math.max(1, open.length), 1);
                  if (!one) return;
                  const used = Math.min(o.used, one.reserved);
                  await store.settle(one.id, usage(used));
                  for (const key of one.keys) spent.set(key, (spent.get(key) ?? 0) + used);
                } else if (o.op === "end") await store.endEpisode("t", o.episode, "finished").catch(() => {});
              }),
            );
            if (batch.some((o) => o.op === "reopen")) await reopen();
            const reservedIn = (key: string) =>
              open.filter((o) => o.keys.includes(key)).reduce((sum, o) => sum + o.reserved, 0);
            const check = (key: string, [used, reserved]: number[], limit: number) => {
              expect([key, used, reserved]).toEqual([key, spent.get(key) ?? 0, reservedIn(key)]);
              expect((used ?? 0) + (reserved ?? 0)).toBeLessThanOrEqual(limit);
            };
            check("pool", await left(pool), limits.pool);
            for (const tenant of ["t", "u"]) {
              check(`role ${tenant} undefined`, await left(roleClaim(undefined), tenant), limits.role);
              for (const id of ["e", "f"]) {
                check(`role ${tenant} ${id}`, await left(roleClaim(id), tenant), limits.role);
                const found = await store.episode(tenant, id);
                check(`episode ${tenant} ${id}`, [found?.tokensUsed ?? 0, found?.tokensReserved ?? 0], limits.episode);
                const told = sumOf(await store.audit(tenant, id, 0));
                expect(told).toEqual([found?.tokensUsed ?? 0, found?.tokensReserved ?? 0]);
              }
            }
            expect((await store.openReservations()).map((r) => r.requestId).sort()).toEqual(
              open.map((o) => o.id).sort(),
            );
          }
        }),
        { numRuns: 30 },
      );
    });
  });
}

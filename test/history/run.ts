import { randomBytes } from "node:crypto";
import type { BudgetClaim, StateStore } from "../../src/core/store.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import { eventually } from "../support/eventually.ts";
import { RedisServer } from "../support/redis.ts";
import { SETTINGS, usage } from "../support/store-suite.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import type { Entry, History } from "./checker.ts";

const ROUTERS = 3;
const CLIENTS = 200;
const EPISODES = ["e0", "e1", "e2"];
const LIMITS = new Map([["pool", 2_500], ...EPISODES.map((id): [string, number] => [`episode ${id}`, 1_000])]);
const POOL: BudgetClaim = { scope: "pool", id: "pool", limit: LIMITS.get("pool") ?? 0 };

/** What a mutant does to the store that clients use. */
export type Mutate = (store: StateStore, random: () => number) => StateStore;

interface Front {
  store: StateStore;
  wire: TcpProxy;
  dead: boolean;
}

/** The same numbers for the same seed. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/**
 * 200 clients of 3 routers over one Redis, which is killed and started, cut off and healed, its clock stepped, and a router dies, at moments
 * and in an order that the seed decides. What the operating system decides differs from run to run.
 */
export async function runHistory(seed: number, mutate: Mutate = (store) => store): Promise<History> {
  await using stack = new AsyncDisposableStack();
  const random = mulberry32(seed);
  const upTo = (n: number) => Math.floor(random() * n);
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const server = stack.use(await RedisServer.start());
  const entries: Entry[] = [];
  const used = new Map<string, number>();
  const at = () => performance.now();
  let aheadMs = 0;

  const openFront = async (): Promise<Front> => {
    const wire = stack.use(await TcpProxy.start(server.port));
    const time = () => ({ now: Date.now() + aheadMs, wall: Date.now() + aheadMs });
    const store = stack.use(
      await openRedisStore({
        ...{ url: `redis://127.0.0.1:${wire.port}`, namespace: "history", pool: String(seed), time },
        ...{ clock: systemClock, random: randomBytes, log: silentLogger, sessionTTLSeconds: 7200 },
      }),
    );
    return { store: mutate(store, random), wire, dead: false };
  };
  const fronts = await Promise.all(Array.from({ length: ROUTERS }, openFront));

  const pick = (): Front | undefined => {
    const alive = fronts.filter((f) => !f.dead);
    return alive[upTo(alive.length)];
  };

  const client = async (n: number): Promise<void> => {
    await pause(upTo(1500));
    const front = pick();
    if (!front) return;
    const id = `req-${seed}-${n}`;
    const episode = EPISODES[upTo(EPISODES.length)] ?? "";
    const worstCase = 20 + upTo(120);
    const settle = async (tokens: number | null) => {
      entries.push({ kind: "settling", at: at(), id });
      await front.store.settle(id, tokens === null ? null : usage(tokens)).catch(() => {});
    };
    const admission = await front.store
      .admit({
        ...{ requestId: id, tenant: "t", instance: "0", claims: [POOL], worstCase, minimum: 10, clamp: random() < 0.2 },
        episode: {
          id: episode,
          settings: { ...SETTINGS, timeoutSeconds: 86_400, maxTimeoutSeconds: 86_400, budgetTokens: 1_000 },
        },
      })
      .catch(() => undefined);
    if (!admission?.ok) return;
    entries.push({
      kind: "admitted",
      at: at(),
      id,
      buckets: ["pool", `episode ${episode}`],
      reserved: admission.reserved,
    });
    for (const { scope, id: name, spent, reserved } of admission.budgets) {
      entries.push({ kind: "seen", at: at(), bucket: scope === "pool" ? "pool" : `episode ${name}`, spent, reserved });
    }
    await pause(upTo(50)); // in a line
    if (front.dead) return;
    if (random() < 0.1 || !front.store.holds(id)) return settle(null);
    const tokens = 1 + upTo(admission.reserved);
    used.set(id, tokens);
    await pause(upTo(100)); // it runs
    if (front.dead) return;
    await settle(tokens);
    if (random() < 0.1) await settle(tokens);
  };

  /** Asks the runtime about what routers that are gone have left. */
  const reap = async (): Promise<void> => {
    for (const { store } of fronts.filter((f) => !f.dead)) {
      for (const { requestId } of await store.abandonedReservations().catch(() => [])) {
        entries.push({ kind: "settling", at: at(), id: requestId });
        const tokens = used.get(requestId);
        await store.settle(requestId, tokens === undefined ? null : usage(tokens)).catch(() => {});
      }
    }
  };

  const faults = [
    async () => {
      await server.end("SIGKILL");
      await pause(upTo(200));
      await server.start();
    },
    async () => {
      const wire = pick()?.wire;
      wire?.partition();
      await pause(upTo(400));
      wire?.heal();
    },
    async () => pick()?.wire.cut(),
    async () => {
      const [victim] = fronts;
      if (!victim || fronts.length > ROUTERS) return;
      victim.dead = true;
      victim.wire.partition();
      fronts.push(await openFront());
    },
    async () => {
      aheadMs += upTo(20_000);
    },
  ];
  const chaos = async () => {
    for (const fault of [...faults].sort(() => random() - 0.5)) {
      await pause(100 + upTo(200));
      await fault();
    }
  };

  await Promise.all([chaos(), ...Array.from({ length: CLIENTS }, (_, n) => client(n))]);
  aheadMs += 16_000;
  const live = fronts.find((f) => !f.dead);
  if (!live) throw new Error("no router is left");
  const end = async () => {
    const views = new Map<string, { spent: number; reserved: number }>();
    views.set("pool", await live.store.budget(POOL, "t"));
    for (const { id, tokensUsed, tokensReserved } of await live.store.episodes("t")) {
      views.set(`episode ${id}`, { spent: tokensUsed, reserved: tokensReserved });
    }
    return views;
  };
  // A mutant may leave something open for ever: then the checker says so.
  const settled = await eventually(
    "nothing is reserved any more",
    async () => {
      await reap();
      const views = await end();
      return [...views.values()].every((v) => v.reserved === 0) && views;
    },
    90_000,
  ).catch(end);
  return { limits: LIMITS, entries, used, end: settled };
}

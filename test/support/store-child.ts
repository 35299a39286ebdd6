import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { statSync, writeSync } from "node:fs";
import type { AdmitRequest, BudgetClaim, EpisodeSettings } from "../../src/core/store.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { systemBootClock } from "../../src/store/embedded/boot-clock.ts";
import { openEmbeddedStore } from "../../src/store/embedded/open.ts";

/**
 * A process that opens a state directory and does as it is told: `hold` (keep it), `storm ROUND` (admit and settle until killed), `full`
 * (go on while its disk takes no more). What it does is written to standard output, one JSON object a line, each in one write: what was
 * written before a SIGKILL is there.
 */
const [mode, dir = "", round = "0"] = process.argv.slice(2);

export interface Line {
  open?: true;
  /** About to be asked. */
  admit?: string;
  settle?: string;
  /** Acknowledged. */
  admitted?: string;
  settled?: string;
  session?: string;
  episode?: string;
  tokens?: number;
  used?: number;
  denied?: string;
  note?: string;
  value?: unknown;
}

export const STORM_POOL: BudgetClaim = { scope: "pool", id: "pool", limit: 200_000 };
export const STORM_EPISODES = ["e0", "e1", "e2", "e3", "e4"];
export const STORM_SETTINGS: EpisodeSettings = {
  timeoutSeconds: 3600,
  progressExtendSeconds: 60,
  maxTimeoutSeconds: 7200,
  idleTimeoutSeconds: 0,
  retainSeconds: 600,
  budgetTokens: 60_000,
};

function say(line: Line): void {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

function openStore() {
  const store = openEmbeddedStore({
    home: { dir },
    clock: systemClock,
    bootClock: systemBootClock(),
    random: randomBytes,
    log: silentLogger,
    sessionTTLSeconds: 7200,
  });
  say({ open: true });
  return store;
}

// The store alone keeps no process alive; whoever runs this does, and takes it along.
process.stdin.on("close", () => process.exit(1)).resume();
if (mode === "hold") {
  const store = openStore();
  // Held, or the garbage collector would close its files.
  process.once("exit", () => void store.close());
} else if (mode === "storm") {
  const store = openStore();
  const worker = async (w: number) => {
    for (let n = 0; ; n++) {
      const requestId = `r${round}-${w}-${n}`;
      const episode = STORM_EPISODES[(w + n) % STORM_EPISODES.length] ?? "e0";
      // Of one episode: a turn of a known session is admitted by the log alone.
      const session = `s${w}-${episode}`;
      say({ admit: requestId });
      const admission = await store.admit({
        requestId,
        tenant: "t",
        instance: String(w % 3),
        claims: [STORM_POOL],
        worstCase: 1 + Math.floor(Math.random() * 400),
        minimum: 1,
        clamp: n % 2 === 0,
        episode: { id: episode, settings: STORM_SETTINGS },
        session: { tenant: "t", key: session, id: session, role: "coder", instance: String(w % 3), episodeId: episode },
      });
      if (!admission.ok) {
        say({ denied: requestId });
        await new Promise((resolve) => setTimeout(resolve, 1));
        continue;
      }
      say({ admitted: requestId, tokens: admission.reserved, episode, session });
      if (n % 7 === 3) continue; // a request that runs until the end
      if (n % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
      const used = Math.floor(admission.reserved * Math.random() * 0.3);
      say({ settle: requestId, used, episode });
      await store.settle(requestId, { promptTokens: used, completionTokens: 0, cachedTokens: 0 });
      say({ settled: requestId });
    }
  };
  for (let w = 0; w < 24; w++) void worker(w);
} else if (mode === "full") {
  const store = openStore();
  const claim: BudgetClaim = { scope: "key", id: "k", limit: 1000 };
  const request = (id: string): AdmitRequest => ({
    ...{ requestId: id, tenant: "t", instance: "0", claims: [claim], worstCase: 100, minimum: 1, clamp: false },
    episode: { id, settings: STORM_SETTINGS },
    session: { tenant: "t", key: `session of ${id}`, id, role: "coder", instance: "0" },
  });
  const limitFileSize = (bytes: string) => execFileSync("prlimit", ["--pid", String(process.pid), `--fsize=${bytes}:`]);
  const codeOf = (work: Promise<unknown>) =>
    work.then(
      () => "done",
      (error: unknown) => (error instanceof LLMPoolError ? error.code : String(error)),
    );
  const ended = new Promise((resolve) => store.onEpisodeEvent((e, event) => event.kind === "ended" && resolve(e.id)));

  say({ note: "before", value: await codeOf(store.admit(request("a"))) });
  await store.startEpisode("t", { id: "short", settings: { ...STORM_SETTINGS, timeoutSeconds: 0.2 } });
  limitFileSize(String(statSync(`${dir}/state.db-wal`).size));
  say({ note: "admit", value: await codeOf(store.admit(request("b"))) });
  say({ note: "episode of it", value: (await store.episode("t", "b")) ?? null });
  say({ note: "session of it", value: (await store.bindings("t")).map((b) => b.id) });
  const budget = async () => {
    const { spent, reserved } = await store.budget(claim, "t");
    return [spent, reserved];
  };
  say({ note: "budget", value: await budget() });
  say({ note: "start", value: await codeOf(store.startEpisode("t", { id: "c", settings: STORM_SETTINGS })) });
  const hasty = await Promise.all([codeOf(store.admit(request("g"))), codeOf(store.settle("g", null))]);
  say({ note: "settle of what was never written", value: [...hasty, ...(await budget())] });
  await codeOf(store.admit({ ...request("h"), episode: { id: "a", settings: STORM_SETTINGS } }));
  say({ note: "its journal", value: (await store.audit("t", "a", 0)).map(({ kind }) => kind) });
  say({
    note: "settle",
    value: await codeOf(store.settle("a", { promptTokens: 30, completionTokens: 0, cachedTokens: 0 })),
  });
  say({ note: "ended", value: await ended });
  say({
    note: "denied without the disk",
    value: await codeOf(store.admit({ ...request("a"), requestId: "x", worstCase: 5000 })),
  });
  limitFileSize("unlimited");
  say({ note: "after", value: await codeOf(store.admit(request("d"))) });
  process.kill(process.pid, "SIGKILL");
}

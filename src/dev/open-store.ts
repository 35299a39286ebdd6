import { randomBytes } from "node:crypto";
import type { RouterPlan } from "../core/plan/types.ts";
import type { Clock } from "../lib/clock.ts";
import type { Logger } from "../lib/logger.ts";
import { systemBootClock } from "../store/embedded/boot-clock.ts";
import { openEmbeddedStore } from "../store/embedded/open.ts";
import type { EmbeddedStore } from "../store/embedded/store.ts";

/** The store of a router on this machine, as its plan asks for it. */
export function openStore(
  { store, sessionTTLSeconds }: RouterPlan,
  dir: string,
  clock: Clock,
  log: Logger,
): EmbeddedStore {
  const home = store.kind === "embedded" && store.ephemeral ? ({ ephemeral: true } as const) : { dir };
  return openEmbeddedStore({ home, clock, bootClock: systemBootClock(), random: randomBytes, log, sessionTTLSeconds });
}

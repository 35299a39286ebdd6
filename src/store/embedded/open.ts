import type { DatabaseSync } from "node:sqlite";
import type { Clock } from "../../lib/clock.ts";
import { LLMPoolError, messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import { AdmissionLog, absorb } from "./admission-log.ts";
import { Bindings, MOST_BINDINGS } from "./bindings.ts";
import type { BootClock } from "./boot-clock.ts";
import { Commits } from "./commits.ts";
import { openDatabase, openDirectory, openEphemeralDatabase } from "./database.ts";
import { Episodes, MOST_EPISODES } from "./episodes.ts";
import { Journal, type Moment } from "./journal.ts";
import { Ledger } from "./ledger.ts";
import { load } from "./load.ts";
import { lockDirectory } from "./lock.ts";
import { EmbeddedStore } from "./store.ts";

/** How long the distance between the process's clock and the boot clock is taken as known: it grows only while the machine sleeps. */
const BOOT_CLOCK_MS = 1_000;

export interface EmbeddedStoreOptions {
  /** A directory of its own, made when missing; or nothing outlives the process. */
  home: { dir: string } | { ephemeral: true };
  clock: Clock;
  bootClock: BootClock;
  /** That many random bytes, for ids. */
  random: (bytes: number) => Uint8Array;
  log: Logger;
  /** A session that is not used for so long is forgotten. */
  sessionTTLSeconds: number;
}

/**
 * Opens the store of one router: takes the directory for this process alone, brings back what a process before it had, and ends what ran
 * out in between. Throws `store_unavailable` with the cause and the cure: directory in use (with the pid), not writable, damaged, newer.
 */
export function openEmbeddedStore(options: EmbeddedStoreOptions): EmbeddedStore {
  const { home } = options;
  if ("ephemeral" in home) return build(openEphemeralDatabase(), () => {}, options);
  openDirectory(home.dir);
  const lock = lockDirectory(home.dir);
  let db: DatabaseSync | undefined;
  let log: AdmissionLog | undefined;
  try {
    db = openDatabase(home.dir);
    log = new AdmissionLog(home.dir, absorb(db, home.dir));
    return build(db, () => lock.release(), options, log);
  } catch (error) {
    log?.close();
    if (db?.isOpen) db.close();
    lock.release();
    if (error instanceof LLMPoolError) throw error;
    throw new LLMPoolError("store_unavailable", `cannot open the state in ${home.dir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function build(
  db: DatabaseSync,
  unlock: () => void,
  options: EmbeddedStoreOptions,
  admissionLog?: AdmissionLog,
): EmbeddedStore {
  const { clock, bootClock, random, log, sessionTTLSeconds } = options;
  const now = momentOf(clock, bootClock);
  const loaded = load(db, now());
  const { next } = loaded;
  const journal = new Journal(db, now, admissionLog);
  const commits = new Commits(journal, clock, log);
  const ledger = new Ledger(journal, next);
  const episodes = new Episodes({ clock, journal, commits, ledger, nextRow: next.episode, most: MOST_EPISODES });
  const ttlMs = sessionTTLSeconds * 1000;
  const bindings = new Bindings({ clock, journal, commits, ttlMs, nextRow: next.binding, most: MOST_BINDINGS });

  for (const bucket of loaded.buckets) ledger.restoreBucket(bucket);
  for (const reservation of loaded.reservations) {
    ledger.restoreReservation(reservation);
    // Without the rows that are gone: their numbers may be given out again.
    journal.reservations.mark(reservation);
  }
  for (const binding of loaded.bindings) bindings.restore(binding);
  journal.audit.restore(loaded.episodes, loaded.reservations);
  const ran = loaded.episodes.filter((episode) => !episode.life.ended).length;
  for (const episode of loaded.episodes) episodes.restore(episode);
  // Looking at them ends those that ran out; now, before anybody asks.
  const active = episodes.active().length;
  journal.commit();
  log.info("the store is open", {
    episodes: active,
    endedMeanwhile: ran - active,
    openReservations: loaded.reservations.length,
    sessions: bindings.size,
  });
  return new EmbeddedStore({ clock, random, log, journal, commits, ledger, episodes, bindings, unlock });
}

/** Now, on all clocks, without asking the system for the boot clock each time. */
function momentOf(clock: Clock, bootClock: BootClock): () => Moment {
  let bootAhead = 0;
  let asked = Number.NEGATIVE_INFINITY;
  return () => {
    const ms = clock.now();
    if (ms - asked >= BOOT_CLOCK_MS) {
      asked = ms;
      bootAhead = bootClock.now() - ms;
    }
    return { ms, bootId: bootClock.bootId, bootMs: ms + bootAhead, wallMs: clock.wall() };
  };
}

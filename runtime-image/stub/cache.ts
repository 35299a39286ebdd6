import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../../src/lib/clock.ts";
import { decodeState, encodeState } from "./state.ts";

/** One simulated KV cache: the tokens that were evaluated. The request that holds it changes it. */
export interface Cache {
  tokens: string[];
}

interface Entry extends Cache {
  holders: number;
  usedAt: number;
}

export interface CacheOptions {
  /** Caches kept in memory. */
  capacity: number;
  /** Idle time after which a cache is forgotten, in memory and on disk, in milliseconds. */
  ttlMs: number;
  /** This instance's own folder: caches that gave way lie in its sub-folder `kv`. */
  stateDir: string;
  clock: Clock;
}

/**
 * Caches by session: the least recently used idle one gives way and is saved; it comes back when its session does. Files are small, and are
 * written and read synchronously: no request ever sees a cache that is half way to the disk.
 */
export class Caches {
  readonly #options: CacheOptions;
  readonly #dir: string;
  /** In the order of last use. */
  readonly #entries = new Map<string, Entry>();
  #oneOffs = 0;

  constructor(options: CacheOptions) {
    this.#options = options;
    this.#dir = join(options.stateDir, "kv");
    this.#sweepFiles();
  }

  /** The session's cache, kept in memory until `release`; empty when it is new. Without a session: a one-off of its own. */
  hold(sessionId: string | undefined): { cache: Cache; release: () => void } {
    this.#forgetIdle();
    if (sessionId === undefined) {
      this.#oneOffs += 1;
      this.#makeRoom();
      const release = () => {
        this.#oneOffs -= 1;
      };
      return { cache: { tokens: [] }, release };
    }
    const entry = this.#entries.get(sessionId) ?? { tokens: this.#load(sessionId) ?? [], holders: 0, usedAt: 0 };
    entry.holders += 1;
    this.#touch(sessionId, entry);
    this.#makeRoom();
    const release = () => {
      entry.holders -= 1;
      if (this.#entries.get(sessionId) === entry) this.#touch(sessionId, entry);
    };
    return { cache: entry, release };
  }

  /** A session's tokens, from memory or disk; it stays where it is. */
  read(sessionId: string): string[] | undefined {
    this.#forgetIdle();
    return this.#entries.get(sessionId)?.tokens ?? this.#readFile(sessionId);
  }

  put(sessionId: string, tokens: string[]): void {
    rmSync(this.#file(sessionId), { force: true });
    this.#touch(sessionId, { tokens, holders: 0, usedAt: 0 });
    this.#makeRoom();
  }

  delete(sessionId: string): boolean {
    const had = this.read(sessionId) !== undefined;
    this.#entries.delete(sessionId);
    rmSync(this.#file(sessionId), { force: true });
    return had;
  }

  stats(): { sessions: number; tokens: number } {
    let tokens = 0;
    for (const entry of this.#entries.values()) tokens += entry.tokens.length;
    return { sessions: this.#entries.size, tokens };
  }

  #touch(sessionId: string, entry: Entry): void {
    entry.usedAt = this.#options.clock.now();
    this.#entries.delete(sessionId);
    this.#entries.set(sessionId, entry);
  }

  #forgetIdle(): void {
    const oldest = this.#options.clock.now() - this.#options.ttlMs;
    for (const [sessionId, entry] of this.#entries) {
      if (entry.usedAt >= oldest) return;
      if (entry.holders === 0) this.#entries.delete(sessionId);
    }
  }

  #makeRoom(): void {
    for (const [sessionId, entry] of this.#entries) {
      if (this.#entries.size + this.#oneOffs <= this.#options.capacity) return;
      if (entry.holders > 0) continue;
      this.#entries.delete(sessionId);
      this.#save(sessionId, entry.tokens);
    }
  }

  #save(sessionId: string, tokens: string[]): void {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    this.#sweepFiles();
    const file = this.#file(sessionId);
    writeFileSync(`${file}.part`, encodeState(tokens), { mode: 0o600 });
    const now = this.#options.clock.wall() / 1000;
    utimesSync(`${file}.part`, now, now);
    renameSync(`${file}.part`, file);
  }

  #load(sessionId: string): string[] | undefined {
    const tokens = this.#readFile(sessionId);
    rmSync(this.#file(sessionId), { force: true });
    return tokens;
  }

  #readFile(sessionId: string): string[] | undefined {
    const file = this.#file(sessionId);
    if (this.#isStale(file)) return undefined;
    try {
      return decodeState(readFileSync(file));
    } catch {
      // A damaged file is as good as none: the prompt holds the whole context.
      return undefined;
    }
  }

  /** Files that nobody has come back for, of earlier processes too. */
  #sweepFiles(): void {
    for (const name of namesIn(this.#dir)) {
      const file = join(this.#dir, name);
      if (this.#isStale(file)) rmSync(file, { force: true });
    }
  }

  #isStale(file: string): boolean {
    const saved = statSync(file, { throwIfNoEntry: false });
    return !saved || saved.mtimeMs < this.#options.clock.wall() - this.#options.ttlMs;
  }

  #file(sessionId: string): string {
    return join(this.#dir, `${createHash("sha256").update(sessionId).digest("hex")}.json`);
  }
}

/** The length of the common beginning of two token lists. */
export function commonPrefix(a: readonly string[], b: readonly string[]): number {
  let i = 0;
  while (i < a.length && i < b.length && a[i] === b[i]) i += 1;
  return i;
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import type { EpisodeSettings as Settings } from "../../src/core/store.ts";
import type { Entry } from "./history.ts";

export interface Limits {
  pool: number;
  key: number;
  /** By role. */
  roles: Readonly<Record<string, number>>;
}

type EpisodeSettings = Pick<Settings, "budgetTokens" | "progressExtendSeconds" | "maxTimeoutSeconds">;

interface Bucket {
  spent: number;
  reserved: number;
}

/** Reads a Redis' append-only file while it is written: every change that was ever made, in its order, through kills and restarts. */
export class AppendOnlyFile implements Disposable {
  readonly entries: Entry[] = [];
  /** Requests that are reserved, as far as it was read. */
  readonly open = new Map<string, string[]>();
  /** What a server that took over with a copy has not got. */
  readonly forgotten: Entry[] = [];
  readonly #path: string;
  #file: number;
  /** Of what is behind a copy that took over: it happened after all that the copy lacks. */
  #shift = 0;
  readonly #prefix: string;
  readonly #limits: Limits;
  readonly #buckets = new Map<string, Bucket>();
  /** Limits of episodes, by the number that names their buckets. */
  readonly #episodes = new Map<string, number>();
  /** Number, deadline and extensions of each episode, as last seen. */
  readonly #deadlines = new Map<string, string>();
  /** Routers say what they hold and what they have settled, one after another: before the last has, no sum is whole, and nothing is admitted. */
  #pending = false;
  /** Up to here all steps were read. */
  #offset = 0;

  constructor(path: string, prefix: string, limits: Limits) {
    this.#path = path;
    this.#file = openSync(path, "r");
    this.#prefix = prefix;
    this.#limits = limits;
  }

  /** Its length: now, as an instant of the history. */
  now(): number {
    return fstatSync(this.#file).size + this.#shift;
  }

  /** A copy that lags is in its place now, and nobody has written to it yet. */
  takeOver(): void {
    this.read();
    const end = this.now();
    const before = this.entries.splice(0);
    closeSync(this.#file);
    this.#file = openSync(this.#path, "r");
    for (const known of [this.open, this.#buckets, this.#episodes, this.#deadlines]) known.clear();
    this.#offset = 0;
    this.#pending = false;
    this.#shift = 0;
    this.read();
    const kept = this.#offset;
    this.forgotten.push(...before.filter(({ at }) => at > kept));
    this.#shift = end - kept;
  }

  /** Takes in what was written since the last time. */
  read(): void {
    const bytes = Buffer.alloc(fstatSync(this.#file).size - this.#offset);
    const length = readSync(this.#file, bytes, 0, bytes.length, this.#offset);
    const from = this.#offset;
    let step: string[][] | undefined;
    for (const { words, end } of commands(bytes.subarray(0, length))) {
      const name = words[0]?.toUpperCase();
      if (name === "MULTI") step = [];
      else if (step && name !== "EXEC") step.push(words);
      else {
        this.#take(step ?? [words], from + end + this.#shift);
        step = undefined;
        this.#offset = from + end;
      }
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }

  /** One script, whole: nobody saw anything of what was in between. */
  #take(step: string[][], at: number): void {
    const touched = new Set<string>();
    /** What follows the end of a reservation is what it cost. */
    let charged = new Map<string, number>();
    const settled: { id: string; charged: Map<string, number> }[] = [];
    for (const [name = "", fullKey = "", ...rest] of step) {
      if (!fullKey.startsWith(this.#prefix)) continue;
      const key = fullKey.slice(this.#prefix.length);
      const command = name.toUpperCase();
      if (key.startsWith("b:")) {
        touched.add(key);
        this.#change(key, command, rest, charged);
      } else if (key.startsWith("r:") && command === "HSET") this.#reserve(key.slice(2), pairs(rest), at);
      else if (key.startsWith("r:") && command === "DEL") {
        charged = new Map();
        settled.push({ id: key.slice(2), charged });
      } else if (key === "meta" && (command === "HSET" || command === "HDEL") && rest[0] === "pending") {
        this.#pending = command === "HSET";
      } else if (key.startsWith("e:") && command === "HSET") {
        const { n, settings, ...fields } = pairs(rest);
        if (n === undefined || settings === undefined) continue;
        const parsed = JSON.parse(settings) as EpisodeSettings;
        this.#episodes.set(n, parsed.budgetTokens);
        this.#deadline(key.slice(2), n, parsed, fields, at);
      } else if (key.startsWith("au:") && command === "RPUSH") {
        const { kind, data } = JSON.parse(rest[0] ?? "") as { kind: string; data: Record<string, string | number> };
        if (kind === "admit" || kind === "settle") {
          const tokens = Number(kind === "admit" ? data.reserved : data.used);
          this.entries.push({
            kind: "journal",
            at,
            episode: key.slice(3),
            id: String(data.request),
            event: kind,
            tokens,
          });
        }
      } else if (key.startsWith("ev:") && command === "RPUSH") {
        const { seq, kind } = JSON.parse(rest[0] ?? "") as { seq: number; kind: string };
        this.entries.push({ kind: "event", at, episode: key.slice(3), seq, event: kind });
      }
    }
    for (const { id, charged: costs } of settled) {
      const sums = (this.open.get(id) ?? []).flatMap((bucket) => costs.get(bucket) ?? []);
      this.open.delete(id);
      // One number for all of its budgets; two that differ are as wrong as any other.
      this.entries.push({ kind: "settled", at, id, charged: sums.every((s) => s === sums[0]) ? sums[0] : Number.NaN });
    }
    for (const bucket of touched) {
      const now = this.#buckets.get(bucket);
      const limit = this.#pending ? 0 : this.#limitOf(bucket);
      if (now) this.entries.push({ kind: "budget", at, bucket, ...now, limit });
    }
  }

  #reserve(id: string, fields: Record<string, string>, at: number): void {
    const { tokens, charges, instance = "", who, boot } = fields;
    if (tokens === undefined || charges === undefined) {
      // A field of one that is known: it has moved, or its router is gone.
      if (instance !== "") this.entries.push({ kind: "moved", at, id, instance });
      return;
    }
    const buckets = (JSON.parse(charges) as [string, number][]).map(([key]) => key.slice(this.#prefix.length));
    this.open.set(id, buckets);
    this.entries.push({
      kind: "reserved",
      at,
      id,
      tokens: Number(tokens),
      buckets,
      episode: who,
      instance,
      named: boot !== undefined,
    });
  }

  #deadline(
    episode: string,
    number: string,
    settings: EpisodeSettings,
    fields: Record<string, string>,
    at: number,
  ): void {
    const key = `${number} ${fields.deadline} ${fields.extensions}`;
    if (this.#deadlines.get(episode) === key) return;
    this.#deadlines.set(episode, key);
    this.entries.push({
      ...{ kind: "deadline", at, episode, number, now: Number(fields.progressAt) },
      ...{ deadline: Number(fields.deadline), extensions: Number(fields.extensions) },
      extendMs: settings.progressExtendSeconds * 1000,
      latest: Number(fields.startedAt) + settings.maxTimeoutSeconds * 1000,
    });
  }

  #change(key: string, command: string, rest: string[], charged: Map<string, number>): void {
    const bucket = this.#buckets.get(key) ?? { spent: 0, reserved: 0 };
    this.#buckets.set(key, bucket);
    if (command === "DEL") this.#buckets.delete(key);
    else if (command === "HSET") {
      const { spent, reserved } = pairs(rest);
      if (spent !== undefined) bucket.spent = Number(spent);
      if (reserved !== undefined) bucket.reserved = Number(reserved);
    } else if (command === "HINCRBY") {
      const [field, by] = [rest[0], Number(rest[1])];
      if (field === "spent") charged.set(key, (charged.get(key) ?? 0) + by);
      if (field === "spent" || field === "reserved") bucket[field] += by;
    }
  }

  /** `b:e7` is an episode's, `b:e7:coder` a role's in it, `b:role/tenant/coder/86400` the same outside of episodes. */
  #limitOf(bucket: string): number {
    const [, n = "", role] = /^b:e(\d+)(?::(.+))?$/.exec(bucket) ?? [];
    if (n !== "") return role === undefined ? (this.#episodes.get(n) ?? 0) : (this.#limits.roles[role] ?? 0);
    const [scope, , id = ""] = bucket.slice(2).split("/");
    if (scope === "role") return this.#limits.roles[id] ?? 0;
    return scope === "pool" ? this.#limits.pool : this.#limits.key;
  }
}

function pairs(flat: string[]): Record<string, string> {
  return Object.fromEntries(flat.flatMap((name, i) => (i % 2 === 0 ? [[name, flat[i + 1] ?? ""]] : [])));
}

/** The whole commands at the beginning of `bytes`, in the Redis protocol, and where each ends. */
function* commands(bytes: Buffer): Generator<{ words: string[]; end: number }> {
  let at = 0;
  const line = () => {
    const end = bytes.indexOf("\r\n", at);
    if (end < 0) return undefined;
    const text = bytes.toString("latin1", at, end);
    at = end + 2;
    return text;
  };
  for (;;) {
    const head = line();
    if (head === undefined) return;
    if (!head.startsWith("*")) continue;
    const words: string[] = [];
    for (let left = Number(head.slice(1)); left > 0; left--) {
      const length = line();
      if (length === undefined) return;
      const start = at;
      at += Number(length.slice(1)) + 2;
      if (at > bytes.length) return;
      words.push(bytes.toString("utf8", start, at - 2));
    }
    yield { words, end: at };
  }
}

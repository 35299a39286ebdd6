import { mkdtemp, readdir, readFile, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Token } from "node-llama-cpp";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../src/lib/logger.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { SavedSessions, type SavedSessionsOptions } from "./saved-sessions.ts";
import type { Sequence } from "./sequence.ts";
import { Sessions } from "./sessions.ts";
import { compatibilityKey } from "./state-file.ts";

/** A cache without an engine: its file is a length and the tokens as JSON. */
class FakeSequence implements Sequence {
  tokens: number[] = [];
  resets = 0;
  get length(): number {
    return this.tokens.length;
  }
  sharedWith = (): number => 0;
  async cut(length: number): Promise<number> {
    this.tokens = this.tokens.slice(0, length);
    return this.tokens.length;
  }
  async append(tokens: readonly Token[]): Promise<void> {
    this.tokens.push(...tokens);
  }
  async *sample(): AsyncGenerator<Token, void> {}
  async save(file: string): Promise<void> {
    const body = JSON.stringify(this.tokens);
    await writeFile(file, `${String(body.length).padStart(8)}${body}`);
  }
  async load(file: string): Promise<void> {
    const text = await readFile(file, "latin1");
    this.tokens = JSON.parse(text.slice(8, 8 + Number(text.slice(0, 8))));
  }
  async reset(): Promise<void> {
    this.resets += 1;
    this.tokens = [];
  }
}

const never = new AbortController().signal;
const KEY = compatibilityKey({ model: "m", sequences: 2 });
const clock = new FakeClock();
let dir: string;
let sequences: FakeSequence[];
let saved: SavedSessions;
let sessions: Sessions;

const open = (options: Partial<SavedSessionsOptions> = {}): Promise<SavedSessions> =>
  SavedSessions.open({
    dir,
    key: KEY,
    mostBytes: 1e6,
    sessionBytes: 1e5,
    ttlMs: 1e12,
    clock,
    log: silentLogger,
    ...options,
  });

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "llmpool-sessions-"));
  sequences = [new FakeSequence(), new FakeSequence()];
  saved = await open();
  sessions = new Sessions(sequences, saved, clock, 60_000);
});
afterEach(async () => {
  await sessions.close();
  await rm(dir, { recursive: true, force: true });
});

/** One turn: what it finds in the cache; it leaves `tokens` more. */
async function turn(session: string | undefined, ...tokens: number[]): Promise<number[]> {
  const lease = await sessions.acquire(session, never);
  const found = [...(lease.sequence as FakeSequence).tokens];
  await lease.sequence.append(tokens as Token[]);
  clock.advance(1);
  await lease.release();
  return found;
}

const files = async (): Promise<string[]> => {
  await saved.close();
  return (await readdir(dir)).sort();
};

describe("Sessions", () => {
  it("gives a session its own cache again, and one-offs an empty one", async () => {
    expect(await turn("a", 1, 2)).toEqual([]);
    expect(await turn(undefined, 9)).toEqual([]);
    expect(await turn("a", 3)).toEqual([1, 2]);
    expect(await turn(undefined)).toEqual([]);
    expect(sessions.stats()).toEqual({ sessions: 1, tokens: 3, free: 1, busy: 0 });
  });

  it("saves the cache that idles longest when all are taken, and brings it back", async () => {
    await turn("a", 1);
    await turn("b", 2);
    await turn("a", 11);
    expect(await turn("c", 3)).toEqual([]);
    expect(await files()).toHaveLength(1);
    expect(await turn("a")).toEqual([1, 11]);
    expect(await turn("b", 22)).toEqual([2]);
    expect(await turn("b")).toEqual([2, 22]);
  });

  it("writes files that only their owner may read, under names that tell nothing", async () => {
    await turn("secret-name", 1);
    await turn("b", 2);
    await turn("c", 3);
    const [name = ""] = await files();
    expect(name).toMatch(/^[0-9a-f]{64}\.kv$/);
    expect((await stat(join(dir, name))).mode & 0o777).toBe(0o600);
  });

  it("lets turns of one session follow each other and others pass", async () => {
    const order: string[] = [];
    const first = await sessions.acquire("a", never);
    const again = ["second", "third"].map(async (name) => {
      const lease = await sessions.acquire("a", never);
      order.push(name);
      await lease.release();
    });
    await turn("b");
    order.push("other");
    await first.sequence.append([1] as Token[]);
    await first.release();
    await Promise.all(again);
    expect(order).toEqual(["other", "second", "third"]);
  });

  it("lets requests wait in their order when all sequences are busy, and forgets those who gave up", async () => {
    const held = [await sessions.acquire("a", never), await sessions.acquire("b", never)];
    const order: string[] = [];
    const gone = new AbortController();
    const leaves = sessions.acquire("gone", gone.signal);
    const waits = ["c", "d"].map(async (name) => {
      const lease = await sessions.acquire(name, never);
      order.push(name);
      await lease.release();
    });
    gone.abort(new Error("hung up"));
    await expect(leaves).rejects.toThrow("hung up");
    expect(order).toEqual([]);
    await held[0]?.release();
    await Promise.all(waits);
    expect(order).toEqual(["c", "d"]);
    await held[1]?.release();
    expect(sessions.stats()).toMatchObject({ busy: 0, free: 2 });
  });

  it("throws a cache away on which the engine failed", async () => {
    await turn("a", 1, 2);
    const lease = await sessions.acquire("a", never);
    await lease.release(true);
    await lease.release(true);
    expect(await turn("a")).toEqual([]);
    expect(sequences.map((s) => s.resets)).toEqual([1, 0]);
    expect(sessions.stats()).toMatchObject({ sessions: 0, busy: 0, free: 2 });
  });

  it("forgets a session that was not used for its time to live", async () => {
    await turn("a", 1);
    clock.advance(59_000);
    await turn("b", 2);
    clock.advance(2_000);
    expect(await turn("a")).toEqual([]);
    expect(await turn("b")).toEqual([2]);
  });

  it("deletes a session in memory, in a file, and at the end of a turn that runs", async () => {
    await turn("a", 1);
    expect(await sessions.delete("a")).toBe(true);
    expect(await sessions.delete("a")).toBe(false);
    await turn("b", 2);
    await turn("c", 3);
    await turn("d", 4);
    expect(await sessions.delete("b")).toBe(true);
    expect(await files()).toEqual([]);
    const lease = await sessions.acquire("c", never);
    const deleted = [await sessions.delete("c"), await sessions.delete("c")];
    await lease.release();
    expect(deleted).toEqual([true, false]);
    expect(await turn("c")).toEqual([]);
  });

  it("exports from memory and from a file, and imports it into another instance", async () => {
    await turn("a", 1, 2, 3);
    const fromMemory = await sessions.export("a");
    await turn("b", 4);
    await turn("c", 5);
    const fromFile = await sessions.export("a");
    expect(await sessions.export("nobody")).toBeUndefined();
    for (const stream of [fromMemory, fromFile]) {
      if (!stream) throw new Error("nothing was exported");
      await sessions.import("copy", stream);
      expect(await turn("copy")).toEqual([1, 2, 3]);
      await sessions.delete("copy");
    }
    expect((await files()).filter((name) => name.endsWith(".draft"))).toEqual([]);
  });

  it("lets nobody in while it closes, and waits for who is in", async () => {
    const lease = await sessions.acquire("a", never);
    const waiting = sessions.acquire(undefined, never).then((l) => l.release());
    await waiting;
    let closed = false;
    const closing = sessions.close().then(() => {
      closed = true;
    });
    await expect(sessions.acquire("b", never)).rejects.toMatchObject({ code: "instance_unavailable" });
    expect(closed).toBe(false);
    await lease.release();
    await closing;
  });
});

describe("SavedSessions", () => {
  const bytesOf = (text: string): ReadableStream<Uint8Array> => new Blob([text]).stream() as ReadableStream<Uint8Array>;

  /** Puts session `a` into a file and returns its path. */
  async function evictA(): Promise<string> {
    await turn("a", 1, 2);
    await turn("b", 3);
    await turn("c", 4);
    const [name = ""] = await files();
    return join(dir, name);
  }

  it.each([
    { name: "cut off", damage: async (path: string) => truncate(path, (await stat(path)).size - 1) },
    { name: "emptied", damage: (path: string) => truncate(path, 0) },
    {
      name: "changed in one byte",
      damage: async (path: string) => {
        const bytes = await readFile(path);
        bytes.writeUInt8(bytes.readUInt8(9) ^ 1, 9);
        await writeFile(path, bytes);
      },
    },
    {
      name: "changed in its trailer",
      damage: async (path: string) => {
        const bytes = await readFile(path);
        bytes.writeUInt8(bytes.readUInt8(bytes.length - 80) ^ 1, bytes.length - 80);
        await writeFile(path, bytes);
      },
    },
  ])("ignores a file that is $name, and deletes it", async ({ damage }) => {
    const path = await evictA();
    await damage(path);
    expect(await turn("a")).toEqual([]);
    await saved.close();
    await expect(stat(path)).rejects.toThrow("ENOENT");
  });

  it("ignores a file of another model or layout", async () => {
    await evictA();
    await sessions.close();
    saved = await open({ key: compatibilityKey({ model: "m", sequences: 3 }) });
    sessions = new Sessions(
      sequences.map(() => new FakeSequence()),
      saved,
      clock,
      60_000,
    );
    expect(await turn("a")).toEqual([]);
  });

  it("survives a restart, and removes what a crash left", async () => {
    await evictA();
    await writeFile(join(dir, "1-1.draft"), "half");
    await sessions.close();
    saved = await open();
    sessions = new Sessions([new FakeSequence()], saved, clock, 60_000);
    expect(await readdir(dir)).toHaveLength(1);
    expect(await turn("a")).toEqual([1, 2]);
  });

  it("keeps to its size, oldest first, and to its time to live", async () => {
    const put = async (id: string, ageMs: number) => {
      const sequence = new FakeSequence();
      sequence.tokens = Array.from({ length: 20 }, () => 7);
      await saved.save(id, sequence);
      await saved.close();
      const at = (clock.wall() - ageMs) / 1000;
      for (const name of await readdir(dir)) {
        const path = join(dir, name);
        if ((await stat(path)).mtimeMs > clock.wall() + 1e6) await utimes(path, at, at);
      }
    };
    for (const [id, age] of [
      ["old", 5_000],
      ["middle", 3_000],
      ["new", 1_000],
    ] as const)
      await put(id, age);
    const size = Math.max(
      ...(await Promise.all((await readdir(dir)).map(async (n) => (await stat(join(dir, n))).size))),
    );
    await (await open({ mostBytes: 2 * size })).close();
    expect(await Promise.all(["old", "middle", "new"].map(async (id) => (await saved.read(id)) !== undefined))).toEqual(
      [false, true, true],
    );
    await (await open({ ttlMs: 2_000 })).close();
    expect(await Promise.all(["middle", "new"].map(async (id) => (await saved.read(id)) !== undefined))).toEqual([
      false,
      true,
    ]);
  });

  it("refuses to import what is damaged, foreign or too large, and leaves nothing behind", async () => {
    await expect(sessions.import("x", bytesOf("no state at all"))).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringContaining("damaged"),
    });
    await expect(sessions.import("x", bytesOf("x".repeat(200_000)))).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringContaining("larger than 100000 bytes"),
    });
    await turn("a", 1);
    const foreign = await open({ key: compatibilityKey({ model: "other" }) });
    const stream = await sessions.export("a");
    if (!stream) throw new Error("nothing was exported");
    await expect(foreign.receive("x", stream)).rejects.toMatchObject({
      message: expect.stringContaining("another model"),
    });
    expect(await readdir(dir)).toEqual([]);
  });

  it("goes on without the cache when it cannot be saved", async () => {
    const [first] = sequences;
    if (!first) throw new Error("no sequence");
    await turn("a", 1);
    first.save = () => Promise.reject(new Error("no space left on device"));
    await turn("b", 2);
    await turn("c", 3);
    expect(await files()).toEqual([]);
    expect(await turn("a")).toEqual([]);
  });
});

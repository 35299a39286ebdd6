import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError, messageOf } from "../../src/lib/errors.ts";
import type { Logger } from "../../src/lib/logger.ts";
import type { Sequence } from "./sequence.ts";
import { problemOf, seal } from "./state-file.ts";

export interface SavedSessionsOptions {
  /** This instance's own folder. */
  dir: string;
  key: Buffer;
  /** Most bytes of all files; the oldest go first. */
  mostBytes: number;
  /** Most bytes of one session: what an import may bring. */
  sessionBytes: number;
  /** A file is deleted this long after it was written. */
  ttlMs: number;
  clock: Clock;
  log: Logger;
}

const NAME = /^[0-9a-f]{64}\.kv$/;

/**
 * KV caches of idle sessions as files, one per session, mode 0600: they hold the prompt's tokens. File names are hashes of session ids.
 * A file is written aside, flushed and renamed, so under its own name it is always whole; what a crash leaves is removed at the start.
 */
export class SavedSessions {
  readonly #options: SavedSessionsOptions;
  /** What is still being written, by file name. Whoever wants that file waits. */
  readonly #pending = new Map<string, Promise<void>>();
  #drafts = 0;
  #cancelSweep: (() => void) | undefined;

  private constructor(options: SavedSessionsOptions) {
    this.#options = options;
  }

  static async open(options: SavedSessionsOptions): Promise<SavedSessions> {
    await mkdir(options.dir, { recursive: true, mode: 0o700 });
    for (const name of await readdir(options.dir)) {
      if (name.endsWith(".draft")) await rm(join(options.dir, name), { force: true });
    }
    const saved = new SavedSessions(options);
    await saved.#sweep();
    return saved;
  }

  /**
   * Writes the session's cache. Resolves as soon as the sequence may be used for something else; the file appears a little later. Never
   * throws: a cache that cannot be saved is computed again.
   */
  async save(sessionId: string, sequence: Sequence): Promise<void> {
    const name = nameOf(sessionId);
    const draft = this.#draft();
    const writing = this.#write(draft, sequence);
    const publishing = writing
      .then(() => this.#publish(draft, name))
      .catch(async (error: unknown) => {
        this.#options.log.warn("could not save an idle session", { error: messageOf(error) });
        await rm(draft, { force: true });
      });
    this.#track(name, publishing);
    await writing.catch(() => {}); // reported above
  }

  /** Loads the session's file into an empty sequence, and deletes it. False when there is none that fits; the sequence is empty then. */
  async restore(sessionId: string, sequence: Sequence): Promise<boolean> {
    const path = await this.#existing(sessionId);
    if (path === undefined) return false;
    try {
      const problem = await problemOf(path, this.#options.key);
      if (problem === undefined) await sequence.load(path);
      else this.#options.log.warn("dropped a saved session", { problem });
      return problem === undefined;
    } catch (error) {
      this.#options.log.warn("could not restore a saved session", { error: messageOf(error) });
      await sequence.reset();
      return false;
    } finally {
      await rm(path, { force: true });
    }
  }

  /** The session's file as a stream, or undefined. */
  async read(sessionId: string): Promise<ReadableStream<Uint8Array> | undefined> {
    const path = await this.#existing(sessionId);
    return path === undefined ? undefined : streamOf(path);
  }

  /** The sequence as a stream of a file's bytes, which never gets a name. */
  async stream(sequence: Sequence): Promise<ReadableStream<Uint8Array>> {
    const draft = this.#draft();
    try {
      await this.#write(draft, sequence);
      await seal(draft, this.#options.key);
      return await streamOf(draft);
    } finally {
      await rm(draft, { force: true }); // an open file stays readable
    }
  }

  /** Takes the bytes of a file. Throws `invalid_request` when they are damaged, too many, or from another model or layout. */
  async receive(sessionId: string, data: ReadableStream<Uint8Array>): Promise<void> {
    const draft = this.#draft();
    try {
      await this.#copy(data, draft);
      const problem = await problemOf(draft, this.#options.key);
      if (problem !== undefined) throw new LLMPoolError("invalid_request", `the session state is ${problem}`);
      const name = nameOf(sessionId);
      await this.#pending.get(name);
      await rename(draft, join(this.#options.dir, name));
      await this.#sweep();
    } finally {
      await rm(draft, { force: true });
    }
  }

  /** True when there was a file. */
  async delete(sessionId: string): Promise<boolean> {
    const path = await this.#existing(sessionId);
    if (path !== undefined) await rm(path, { force: true });
    return path !== undefined;
  }

  /** Waits for what is being written. */
  async close(): Promise<void> {
    this.#cancelSweep?.();
    await Promise.all(this.#pending.values());
  }

  async #existing(sessionId: string): Promise<string | undefined> {
    const name = nameOf(sessionId);
    await this.#pending.get(name);
    const path = join(this.#options.dir, name);
    const info = await stat(path).catch(() => undefined);
    return info?.isFile() ? path : undefined;
  }

  #track(name: string, work: Promise<void>): void {
    const all = Promise.all([this.#pending.get(name), work]).then(() => {
      if (this.#pending.get(name) === all) this.#pending.delete(name);
    });
    this.#pending.set(name, all);
  }

  async #publish(draft: string, name: string): Promise<void> {
    await seal(draft, this.#options.key);
    await rename(draft, join(this.#options.dir, name));
    await this.#sweep();
  }

  /** The engine opens the file by its name and keeps its mode. */
  async #write(draft: string, sequence: Sequence): Promise<void> {
    await (await open(draft, "wx", 0o600)).close();
    await sequence.save(draft);
  }

  async #copy(data: ReadableStream<Uint8Array>, draft: string): Promise<void> {
    const file = await open(draft, "wx", 0o600);
    try {
      let bytes = 0;
      for await (const chunk of data) {
        bytes += chunk.byteLength;
        if (bytes > this.#options.sessionBytes) {
          throw new LLMPoolError(
            "invalid_request",
            `the session state is larger than ${this.#options.sessionBytes} bytes, the most here`,
          );
        }
        await file.write(chunk);
      }
      await file.sync();
    } finally {
      await file.close();
    }
  }

  #draft = (): string => join(this.#options.dir, `${process.pid}-${++this.#drafts}.draft`);

  /** Deletes what is too old or too much, and comes back when the next one is too old. */
  async #sweep(): Promise<void> {
    const { dir, mostBytes, ttlMs, clock } = this.#options;
    const files: { path: string; bytes: number; at: number }[] = [];
    for (const name of (await readdir(dir)).filter((n) => NAME.test(n))) {
      const info = await stat(join(dir, name)).catch(() => undefined);
      if (info) files.push({ path: join(dir, name), bytes: info.size, at: info.mtimeMs });
    }
    files.sort((a, b) => b.at - a.at);
    let total = 0;
    let oldest: number | undefined;
    for (const file of files) {
      total += file.bytes;
      if (total > mostBytes || clock.wall() - file.at >= ttlMs) await rm(file.path, { force: true });
      else oldest = file.at;
    }
    this.#cancelSweep?.();
    if (oldest !== undefined) {
      this.#cancelSweep = clock.after(Math.max(1000, oldest + ttlMs - clock.wall()), () => {
        this.#sweep().catch((error: unknown) =>
          this.#options.log.warn("could not tidy saved sessions", { error: messageOf(error) }),
        );
      });
    }
  }
}

const nameOf = (sessionId: string): string =>
  `${createHash("sha256").update(`llmpool session\0${sessionId}`).digest("hex")}.kv`;

/** The file is open before this returns, so it may be deleted at once. */
async function streamOf(path: string): Promise<ReadableStream<Uint8Array>> {
  const file = await open(path, "r");
  return Readable.toWeb(createReadStream(path, { fd: file, autoClose: true })) as ReadableStream<Uint8Array>;
}

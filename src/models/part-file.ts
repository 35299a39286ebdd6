import { createHash, type Hash } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { type FileHandle, open, rm, stat } from "node:fs/promises";
import { diskError, readJson, replaceFile } from "./entry.ts";

/** What must be known to go on after a cut; kept beside the unfinished file as `<file>.part.json`. */
interface PartFacts {
  /** Hash of the URL: another source starts anew. */
  source: string;
  /** A strong ETag or a Last-Modified date. */
  validator?: string;
  total?: number;
}

/** An unfinished download: the bytes so far, their running sha256, and what lets a later process go on. One writer, under the entry's lock. */
export class PartFile {
  readonly path: string;
  bytes = 0;
  /** Whether bytes of an earlier process are in it. */
  resumed = false;
  facts: PartFacts;
  #hash: Hash = createHash("sha256");
  #file: FileHandle;

  private constructor(path: string, file: FileHandle, facts: PartFacts) {
    this.path = path;
    this.facts = facts;
    this.#file = file;
  }

  /** Opens or makes it, and reads what is there. */
  static async open(path: string, url: URL, signal: AbortSignal): Promise<PartFile> {
    const source = createHash("sha256").update(url.href).digest("hex");
    const known = await readJson<PartFacts>(`${path}.json`);
    try {
      const same = known?.source === source;
      const flags = constants.O_RDWR | constants.O_CREAT | constants.O_APPEND | (same ? 0 : constants.O_TRUNC);
      const part = new PartFile(path, await open(path, flags), same ? known : { source });
      try {
        if (same) await part.#readBack(signal);
        return part;
      } catch (error) {
        await part.close();
        throw error;
      }
    } catch (error) {
      throw diskError(error, path);
    }
  }

  /** Where another process's download stands. */
  static async peek(path: string): Promise<{ bytes: number; total?: number }> {
    const bytes = (await stat(path).catch(() => undefined))?.size ?? 0;
    const total = (await readJson<PartFacts>(`${path}.json`))?.total;
    return total === undefined ? { bytes } : { bytes, total };
  }

  async restart(): Promise<void> {
    if (this.bytes > 0) await this.#file.truncate(0);
    this.bytes = 0;
    this.resumed = false;
    this.facts = { source: this.facts.source };
    this.#hash = createHash("sha256");
  }

  /** Notes what the answer said, before its bytes come. */
  async begin(facts: Omit<PartFacts, "source">): Promise<void> {
    this.facts = { source: this.facts.source, ...facts };
    try {
      await replaceFile(`${this.path}.json`, JSON.stringify(this.facts));
    } catch (error) {
      throw diskError(error, this.path);
    }
  }

  async append(chunk: Buffer): Promise<void> {
    try {
      for (let at = 0; at < chunk.length; ) at += (await this.#file.write(chunk, at)).bytesWritten;
    } catch (error) {
      throw diskError(error, this.path);
    }
    this.#hash.update(chunk);
    this.bytes += chunk.length;
  }

  /** sha256 of all bytes, flushed to the disk. */
  async finish(): Promise<string> {
    await this.#file.sync();
    return this.#hash.copy().digest("hex");
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  /** Removes it; for after `close`. */
  async remove(): Promise<void> {
    await rm(this.path, { force: true });
    await rm(`${this.path}.json`, { force: true });
  }

  async #readBack(signal: AbortSignal): Promise<void> {
    for await (const chunk of createReadStream(this.path, { signal, highWaterMark: 2 ** 20 })) {
      this.#hash.update(chunk as Buffer);
      this.bytes += (chunk as Buffer).length;
    }
    this.resumed = this.bytes > 0;
  }
}

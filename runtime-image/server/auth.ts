import { hash, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";
import { StartError } from "../../src/api/instance.ts";
import { messageOf } from "../../src/lib/errors.ts";

/** Knows the pool's token by its hash. The file is read again when a token does not match: that is how a new token arrives. */
export class TokenCheck {
  readonly #file: string;
  #expected: Buffer;
  #reading: Promise<void> | undefined;

  private constructor(file: string, expected: Buffer) {
    this.#file = file;
    this.#expected = expected;
  }

  static async load(file: string): Promise<TokenCheck> {
    const token = await readToken(file).catch((error: unknown) => {
      throw new StartError("ConfigInvalid", `tokenFile ${file} cannot be read: ${messageOf(error)}`);
    });
    if (token === "")
      throw new StartError("ConfigInvalid", `tokenFile ${file} is empty: write the pool's token into it`);
    return new TokenCheck(file, digest(token));
  }

  /** Takes the same time whatever the header says; only a mismatch waits for the file. */
  async accepts(authorization: string | undefined): Promise<boolean> {
    const given = digest(bearer(authorization));
    if (timingSafeEqual(given, this.#expected)) return true;
    this.#reading ??= this.#reread().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
    return timingSafeEqual(given, this.#expected);
  }

  async #reread(): Promise<void> {
    // An unreadable or empty file opens nothing and closes nothing: the known token goes on.
    const token = await readToken(this.#file).catch(() => "");
    if (token !== "") this.#expected = digest(token);
  }
}

async function readToken(file: string): Promise<string> {
  return (await readFile(file, "utf8")).trim();
}

function bearer(authorization: string | undefined): string {
  return /^Bearer +(.*)$/i.exec(authorization ?? "")?.[1] ?? "";
}

function digest(text: string): Buffer {
  return hash("sha256", text, "buffer");
}

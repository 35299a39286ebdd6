import { createHash } from "node:crypto";
import { z } from "zod";
import { LLMPoolError } from "../../src/lib/errors.ts";

/** A cache as bytes: one line of header, then the tokens as JSON. The checksum finds what was damaged on a disk or a wire. */
const Header = z.strictObject({ format: z.literal("llmpool-stub-kv"), version: z.literal(1), sha256: z.string() });
const Tokens = z.array(z.string());

/** Most bytes of one cache: far above any context the stub is used with. */
export const MAX_STATE_BYTES = 256 * 1024 * 1024;

export function encodeState(tokens: readonly string[]): Buffer {
  const body = JSON.stringify(tokens);
  const header: z.infer<typeof Header> = { format: "llmpool-stub-kv", version: 1, sha256: sha256(body) };
  return Buffer.from(`${JSON.stringify(header)}\n${body}`);
}

/** Throws `invalid_request` for anything that `encodeState` did not write. */
export function decodeState(bytes: Buffer): string[] {
  const text = bytes.toString();
  const cut = text.indexOf("\n");
  const body = text.slice(cut + 1);
  try {
    const header = Header.parse(JSON.parse(text.slice(0, Math.max(0, cut))));
    if (header.sha256 === sha256(body)) return Tokens.parse(JSON.parse(body));
  } catch (cause) {
    throw new LLMPoolError("invalid_request", "these bytes are no session of a stub instance", { cause });
  }
  throw new LLMPoolError("invalid_request", "the session's bytes are damaged: their checksum differs");
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

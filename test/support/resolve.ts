import { createHash } from "node:crypto";
import { onTestFinished } from "vitest";
import { silentLogger } from "../../src/lib/logger.ts";
import type { ResolveOptions } from "../../src/models/resolve.ts";
import { EagerClock } from "./eager-clock.ts";
import { FakeWeb } from "./fake-web.ts";

/** Content that passes for a model file, the same for the same seed. */
export function fakeModel(bytes: number, seed = "a"): Buffer {
  const block = createHash("sha512").update(seed).digest();
  const content = Buffer.alloc(bytes, block);
  content.write("GGUF", 0, "latin1");
  return content;
}

export function sha256(content: Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}

/** Options for resolveModel with nothing of this machine in them: no proxy, no index, no token. */
export function resolveOptions(
  cacheDir: string,
  more: Partial<ResolveOptions> = {},
): ResolveOptions & { clock: EagerClock } {
  const clock = new EagerClock();
  return {
    cacheDir,
    env: {},
    signal: new AbortController().signal,
    log: silentLogger,
    random: () => 0.5,
    ...more,
    clock,
  };
}

/** A web server that ends with the test. */
export async function fakeWeb(): Promise<FakeWeb> {
  const web = await FakeWeb.start();
  onTestFinished(() => web.close());
  return web;
}

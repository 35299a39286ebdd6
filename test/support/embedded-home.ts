import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Logger, silentLogger } from "../../src/lib/logger.ts";
import { openEmbeddedStore } from "../../src/store/embedded/open.ts";
import type { EmbeddedStore } from "../../src/store/embedded/store.ts";
import { FakeClock } from "./fake-clock.ts";
import type { StoreHome } from "./store-suite.ts";

/** A state directory of its own and the clocks of a machine of its own. */
export class EmbeddedHome implements StoreHome {
  readonly dir = mkdtempSync(join(tmpdir(), "llmpool-store-"));
  readonly clock = new FakeClock();
  bootId = "boot-1";
  log: Logger = silentLogger;

  async open(): Promise<EmbeddedStore> {
    return this.openNow({ dir: this.dir });
  }

  openNow(home: { dir: string } | { ephemeral: true }): EmbeddedStore {
    const { clock, bootId, log } = this;
    const bootClock = { bootId, now: () => clock.now() };
    return openEmbeddedStore({ home, clock, bootClock, random: randomBytes, log, sessionTTLSeconds: 7200 });
  }

  /** What comes due is written, and told, at the end of a turn. */
  async advance(ms: number): Promise<void> {
    this.clock.advance(ms);
    await turn();
  }

  stepWall(ms: number): void {
    this.clock.stepWall(ms);
  }

  wall(): number {
    return this.clock.wall();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** To the end of this turn of the event loop and of the next. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
}

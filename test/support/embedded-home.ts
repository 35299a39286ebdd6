import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Logger, silentLogger } from "../../src/lib/logger.ts";
import { openEmbeddedStore } from "../../src/store/embedded/open.ts";
import type { EmbeddedStore } from "../../src/store/embedded/store.ts";
import { FakeClock } from "./fake-clock.ts";
import type { StoreHome } from "./store-suite.ts";

/** A state directory of its own, on a machine of its own. Each `open` is another process: its clock begins at 0. */
export class EmbeddedHome implements StoreHome {
  readonly dir = mkdtempSync(join(tmpdir(), "llmpool-store-"));
  clock = new FakeClock();
  log: Logger = silentLogger;
  #bootId = "boot-1";
  /** What the boot clock showed when the process's clock was at 0. */
  #bootBase = 5_000_000;

  async open(): Promise<EmbeddedStore> {
    return this.openNow({ dir: this.dir });
  }

  openNow(home: { dir: string } | { ephemeral: true }): EmbeddedStore {
    this.#bootBase += this.clock.now();
    this.clock = new FakeClock(this.clock.wall());
    const { clock, log } = this;
    const base = this.#bootBase;
    const bootClock = { bootId: this.#bootId, now: () => base + clock.now() };
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

  /** While the store is closed; `bootId` "" for a system that has none. */
  reboot(bootId: string): void {
    this.#bootId = bootId;
    this.#bootBase = -this.clock.now();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** To the end of this turn of the event loop and of the next. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
}

import { randomBytes } from "node:crypto";
import { silentLogger } from "../../src/lib/logger.ts";
import { openEmbeddedStore } from "../../src/store/embedded/open.ts";
import type { FakeClock } from "./fake-clock.ts";

/** A store in memory, for a router on a clock that the test moves. */
export const openEphemeralStore = (clock: FakeClock) =>
  openEmbeddedStore({
    home: { ephemeral: true },
    clock,
    bootClock: { bootId: "boot", now: clock.now },
    random: randomBytes,
    log: silentLogger,
    sessionTTLSeconds: 7200,
  });

import { randomBytes } from "node:crypto";
import type { PoolPlan } from "../core/plan/types.ts";
import type { StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import type { Secrets } from "../router/auth.ts";
import { systemBootClock } from "../store/embedded/boot-clock.ts";
import { openEmbeddedStore } from "../store/embedded/open.ts";
import { openRedisStore } from "../store/redis/open.ts";

/** The store of a router, as its plan asks for it; `dir` is where an embedded one lives. */
export async function openStore(
  { pool, namespace, router }: PoolPlan,
  secrets: Secrets,
  dir: string,
  clock: Clock,
  log: Logger,
): Promise<StateStore> {
  const { store, sessionTTLSeconds } = router;
  const common = { clock, random: randomBytes, log, sessionTTLSeconds };
  if (store.kind === "embedded") {
    const home = store.ephemeral ? ({ ephemeral: true } as const) : { dir };
    return openEmbeddedStore({ home, bootClock: systemBootClock(), ...common });
  }
  const { secretName, key } = store;
  const secret = secrets[secretName] ?? {};
  const url = secret[key]?.toString("utf8").trim();
  if (!url) {
    throw new LLMPoolError(
      "store_unavailable",
      `the Secret ${secretName} has no key ${key}: it must hold the URL of the Redis, redis://[[user]:password@]host[:port]`,
    );
  }
  // As Kubernetes calls them in a Secret.
  const { "ca.crt": ca, "tls.crt": cert, "tls.key": certKey } = secret;
  const tls = { ...(ca && { ca }), ...(cert && { cert }), ...(certKey && { key: certKey }) };
  const allowVolatile = secret["allow-volatile"]?.toString("utf8").trim() === "true";
  return openRedisStore({ url, tls, allowVolatile, namespace, pool, ...common });
}

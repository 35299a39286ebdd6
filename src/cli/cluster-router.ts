import { WatchedPool } from "../cluster/watched-pool.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import { readSecretDirs } from "../dev/follow-secrets.ts";
import { findCluster } from "../kube/credentials.ts";
import { systemClock } from "../lib/clock.ts";
import { makeLogger } from "../lib/logger.ts";
import { sleep } from "../lib/sleep.ts";
import { ProbedEndpoints } from "../router/probed-endpoints.ts";
import type { CliIo } from "./io.ts";
import { type ServeFlags, serveRouter } from "./serve-router.ts";
import { packageVersion } from "./version.ts";

export interface ClusterRouterFlags extends ServeFlags {
  pool: string;
  namespace?: string;
  kubeconfig?: string;
  context?: string;
}

/** How long after its end was asked for a router serves on, in milliseconds: until then Services and gateways may not have heard of it. */
const LEAVE_MS = 5_000;

/**
 * The router of a pool on a cluster. It follows the pool's spec and the EndpointSlices of its instances, asks each instance itself whether it is ready, and
 * goes on with what it knew last while the API server is away.
 */
export async function runClusterRouter(flags: ClusterRouterFlags, io: CliIo): Promise<void> {
  const log = makeLogger("info", io.stderr);
  const clock = systemClock;
  const credentials = await findCluster({ env: { ...io.env }, kubeconfig: flags.kubeconfig, context: flags.context });

  await using stack = new AsyncDisposableStack();
  const source = stack.use(new ProbedEndpoints(clock));
  let newest: PoolPlan | undefined;
  let onPlan = (next: PoolPlan) => {
    newest = next;
  };
  const pool = stack.use(
    new WatchedPool({
      credentials,
      namespace: flags.namespace ?? credentials.namespace ?? "default",
      name: flags.pool,
      userAgent: `llmpool-router/${packageVersion()}`,
      clock,
      random: Math.random,
      log,
      onPlan: (plan) => onPlan(plan),
      onAddresses: (addresses) => source.set(addresses),
    }),
  );
  let plan: PoolPlan;
  try {
    plan = await pool.start(io.signal);
  } catch (error) {
    if (io.signal.aborted) return;
    throw error;
  }
  const secrets = readSecretDirs(flags.secret);
  const { router, take } = await serveRouter({ plan, secrets, source, flags, io, clock, log, stack });
  onPlan = (next) => take("pool", () => ({ plan: next }));
  // It may have changed while the store was opened.
  if (newest) onPlan(newest);
  await aborted(io.signal);
  router.leave();
  await Promise.race([sleep(clock, LEAVE_MS, new AbortController().signal), ...(io.hurry ? [aborted(io.hurry)] : [])]);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/**
 * An operator of one namespace as a process that can be killed; its options are JSON on the command line. Tells its parent where its metrics are.
 * It exits with 1 when it lost its Lease, as `llmpool operator` does, and dies of what nobody caught.
 */
import { HealthServer } from "../../operator/health.ts";
import { runOperator } from "../../operator/operator.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import { makeKubeMetrics } from "../../src/kube/metrics.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { makeLogger } from "../../src/lib/logger.ts";
import { makeMetrics } from "../../src/lib/metrics.ts";
import { onlyOurs } from "./only-ours.ts";
import type { ChildOptions } from "./operator-process.ts";

const { server, token, namespace, identity, version, level } = JSON.parse(process.argv[2] ?? "") as ChildOptions;
const end = new AbortController();
// Whoever started it is gone, or wants it to end.
process.once("disconnect", () => process.exit(0));
process.once("SIGTERM", () => end.abort(new Error("asked to end")));
const metrics = makeMetrics();
const health = await HealthServer.listen(metrics, "127.0.0.1", 0);
process.send?.({ port: health.port });
const headers = { authorization: `Bearer ${token}` };
const options = {
  credentials: { server, namespace, read: async () => ({ headers, tls: {} }) },
  version,
  images: defaultImages(version),
  ownNamespace: namespace,
  namespace,
  identity,
  clock: systemClock,
  random: Math.random,
  log: makeLogger(level, (line) => void process.stdout.write(line)),
  metrics: makeKubeMetrics(metrics),
  ask: onlyOurs,
};
try {
  await runOperator(options, end.signal, () => {
    health.setReady();
    process.send?.({ synced: true });
  });
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}

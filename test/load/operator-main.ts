/**
 * An operator as its pod runs it, for measuring: everybody's pools, credentials without the client library, `/metrics`. Of instances, which are
 * fake, it hears at once that all are Ready. Each reconcile is a line of standard output: its seconds.
 */
import { readFileSync } from "node:fs";
import { HealthServer } from "../../operator/health.ts";
import { runOperator } from "../../operator/operator.ts";
import { defaultImages } from "../../operator/render/settings.ts";
import type { Credentials } from "../../src/kube/credentials.ts";
import { type KubeMetrics, makeKubeMetrics } from "../../src/kube/metrics.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { makeLogger } from "../../src/lib/logger.ts";
import { makeMetrics } from "../../src/lib/metrics.ts";

interface Kubeconfig {
  clusters: { cluster: Record<string, string> }[];
  users: { user: Record<string, string> }[];
}

const [kubeconfig = "", port = "0", namespace = "default"] = process.argv.slice(2);
const end = new AbortController();
for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => end.abort(new Error(name)));

const metrics = makeMetrics();
metrics.addProcessMetrics();
await using health = await HealthServer.listen(metrics, "127.0.0.1", Number(port));
const options = {
  credentials: credentialsIn(kubeconfig),
  version: "0.0.0-bench",
  images: defaultImages("0.0.0-bench"),
  ownNamespace: namespace,
  identity: `bench-${process.pid}`,
  clock: systemClock,
  random: Math.random,
  log: makeLogger("error"),
  metrics: told(makeKubeMetrics(metrics)),
  ask: async () => ({ state: "Ready", device: "NVIDIA H100 80GB HBM3", warmup_s: 1.9, tokens_per_second: 61 }),
};
await runOperator(options, end.signal, () => health.setReady());

function told(inner: KubeMetrics): KubeMetrics {
  return {
    ...inner,
    controller(name, workers) {
      const controller = inner.controller(name, workers);
      return {
        ...controller,
        reconciled(result, seconds) {
          controller.reconciled(result, seconds);
          process.stdout.write(`${seconds}\n`);
        },
      };
    },
  };
}

function credentialsIn(file: string): Credentials {
  const { clusters, users } = JSON.parse(readFileSync(file, "utf8")) as Kubeconfig;
  const bytes = (text = "") => Buffer.from(text, "base64");
  const { server = "", "certificate-authority-data": ca } = clusters[0]?.cluster ?? {};
  const { "client-certificate-data": cert, "client-key-data": key } = users[0]?.user ?? {};
  const access = { headers: {}, tls: { ca: bytes(ca), cert: bytes(cert), key: bytes(key) } };
  return { server, namespace: undefined, read: async () => access };
}

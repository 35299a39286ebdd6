import { findCluster } from "../src/kube/credentials.ts";
import { makeKubeMetrics } from "../src/kube/metrics.ts";
import { systemClock } from "../src/lib/clock.ts";
import { makeLogger } from "../src/lib/logger.ts";
import { makeMetrics } from "../src/lib/metrics.ts";
import { HealthServer } from "./health.ts";
import { runOperator } from "./operator.ts";
import { defaultImages, type RenderSettings } from "./render/settings.ts";

export interface OperatorCommand {
  kubeconfig?: string;
  context?: string;
  /** Undefined: all namespaces. */
  namespace?: string;
  /** Undefined: the pod's own. */
  ownNamespace?: string;
  imageRegistry: string;
  /** In place of the default ones. */
  images: Partial<RenderSettings["images"]>;
  host: string;
  port: number;
  version: string;
  /** Of this process and no other, ever. */
  identity: string;
  env: NodeJS.ProcessEnv;
  write: (line: string) => void;
  signal: AbortSignal;
}

/** Runs the operator until the signal fires. Rejects when there is no cluster, a port is taken, or the Lease is lost. */
export async function operatorMain(command: OperatorCommand): Promise<void> {
  const { env, signal, version, identity } = command;
  const log = makeLogger("info", command.write);
  const credentials = await findCluster({ env, kubeconfig: command.kubeconfig, context: command.context });
  const metrics = makeMetrics();
  metrics.addProcessMetrics();
  await using health = await HealthServer.listen(metrics, command.host, command.port);
  log.info("the operator starts", { version, server: credentials.server, port: health.port, identity });
  const options = {
    credentials,
    version,
    images: { ...defaultImages(version, command.imageRegistry), ...command.images },
    ownNamespace: command.ownNamespace ?? credentials.namespace ?? "llmpool-system",
    namespace: command.namespace,
    identity,
    clock: systemClock,
    random: Math.random,
    log,
    metrics: makeKubeMetrics(metrics),
  };
  await runOperator(options, signal, () => health.setReady());
}

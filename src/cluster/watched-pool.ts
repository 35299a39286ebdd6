import type { LLMPool } from "../api/llmpool.ts";
import { LABELS } from "../api/names.ts";
import { validatePool } from "../api/validate.ts";
import { planPool } from "../core/plan/plan.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import { Client } from "../kube/client.ts";
import { Connection } from "../kube/connection.ts";
import type { Credentials } from "../kube/credentials.ts";
import { Informer } from "../kube/informer.ts";
import type { KubeObject } from "../kube/object.ts";
import { RESOURCES, selectorOf } from "../kube/resource.ts";
import type { Clock } from "../lib/clock.ts";
import type { Logger } from "../lib/logger.ts";
import { addressesOf, type InstanceAddress, type InstancePod } from "./addresses.ts";
import { LLMPOOLS } from "./llmpools.ts";

export interface WatchedPoolOptions {
  credentials: Credentials;
  namespace: string;
  name: string;
  /** `llmpool-router/0.1.0` */
  userAgent: string;
  clock: Clock;
  random: () => number;
  log: Logger;
  onPlan: (plan: PoolPlan) => void;
  onAddresses: (addresses: InstanceAddress[]) => void;
}

/**
 * One pool and its instances' pods, followed on the API server. While that is away everything stays as it was seen last. A pool that is deleted or
 * no longer valid keeps its last plan: whoever serves it goes on until it is stopped.
 */
export class WatchedPool implements AsyncDisposable {
  readonly #options: WatchedPoolOptions;
  readonly #connection: Connection;
  readonly #pools: Informer<KubeObject>;
  readonly #pods: Informer<InstancePod>;
  #generation: string | undefined;
  #plan: PoolPlan | undefined;

  constructor(options: WatchedPoolOptions) {
    this.#options = options;
    const { credentials, clock, random, log, namespace, name, userAgent } = options;
    this.#connection = new Connection({ credentials, clock, userAgent });
    const client = new Client({ connection: this.#connection, clock });
    const shared = { client, clock, random, log, namespace };
    this.#pools = new Informer({
      ...shared,
      resource: LLMPOOLS,
      fieldSelector: `metadata.name=${name}`,
    });
    this.#pods = new Informer<InstancePod>({
      ...shared,
      resource: RESOURCES.pods,
      labelSelector: selectorOf({ [LABELS.pool]: name, [LABELS.component]: "instance" }),
      keep: keepAddress,
    });
  }

  /** Resolves with the plan once the pool and its pods are known. Waits for as long as the API server is away; rejects with the signal's reason. */
  async start(signal: AbortSignal): Promise<PoolPlan> {
    const first = Promise.withResolvers<PoolPlan>();
    // It may end while something else is waited for.
    first.promise.catch(() => {});
    const onAbort = () => first.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      this.#pods.start();
      await this.#pods.whenSynced(signal);
      this.#pools.onChange(
        () => ["pool"],
        () => this.#look(first.resolve),
      );
      this.#pods.onChange(
        () => ["pods"],
        () => this.#tell(),
      );
      this.#pools.start();
      return await first.promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#pools.close(), this.#pods.close()]);
    await this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #look(onFirst: (plan: PoolPlan) => void): void {
    const { namespace, name, log, onPlan } = this.#options;
    const stored = this.#pools.get(`${namespace}/${name}`);
    if (!stored) {
      log.warn("the pool is not there: its last plan stays", { pool: name });
      return;
    }
    const { uid, generation } = stored.metadata;
    // Its status changes often, its spec hardly ever.
    if (this.#generation === `${uid}/${generation}`) return;
    this.#generation = `${uid}/${generation}`;
    const { status: _, ...manifest } = stored as KubeObject & Pick<LLMPool, "status">;
    const checked = validatePool(structuredClone(manifest));
    if (!checked.ok) {
      log.error("the pool is not valid: its last plan stays", { problems: checked.problems });
      return;
    }
    const plan = planPool(checked.pool);
    const isFirst = this.#plan === undefined;
    this.#plan = plan;
    if (isFirst) onFirst(plan);
    else onPlan(plan);
    this.#tell();
  }

  #tell(): void {
    if (this.#plan) this.#options.onAddresses(addressesOf(this.#plan, this.#pods.list()));
  }
}

/** Pods are large, and there are many: only what tells an address is kept. */
function keepAddress({ apiVersion, kind, metadata, status }: InstancePod): InstancePod {
  const { name, namespace, uid, resourceVersion, labels, deletionTimestamp } = metadata;
  const { podIP, phase } = status ?? {};
  return {
    apiVersion,
    kind,
    metadata: {
      name,
      ...(namespace !== undefined && { namespace }),
      ...(uid !== undefined && { uid }),
      ...(resourceVersion !== undefined && { resourceVersion }),
      ...(labels && { labels }),
      ...(deletionTimestamp !== undefined && { deletionTimestamp }),
    },
    status: { ...(podIP !== undefined && { podIP }), ...(phase !== undefined && { phase }) },
  };
}

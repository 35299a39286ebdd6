import { type LLMPool, LLMPoolSpec } from "../api/llmpool.ts";
import { instancesServiceOf } from "../api/names.ts";
import { type Schema, structural } from "../api/structural.ts";
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
import { oncePerMicrotask } from "../lib/once-per-microtask.ts";
import { addressesOf, type InstanceAddress, type InstanceSlice } from "./addresses.ts";
import { LLMPOOLS } from "./llmpools.ts";
import { prune } from "./prune.ts";

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

/** Which Service a slice belongs to. */
const SERVICE_LABEL = "kubernetes.io/service-name";

let specSchema: Schema | undefined;

/**
 * One pool and the EndpointSlices of its instances, followed on the API server. While that is away everything stays as it was seen last. A pool that
 * is deleted or no longer valid keeps its last plan, and one whose Service is deleted its last addresses: whoever serves it goes on until it is
 * stopped.
 */
export class WatchedPool implements AsyncDisposable {
  readonly #options: WatchedPoolOptions;
  readonly #connection: Connection;
  readonly #pools: Informer<KubeObject>;
  readonly #slices: Informer<InstanceSlice>;
  #generation: string | undefined;
  #plan: PoolPlan | undefined;
  /** Of a new list every slice that went and that came is a change of its own: only all of them together are true. */
  readonly #tellSoon = oncePerMicrotask(() => this.#tell());

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
    this.#slices = new Informer<InstanceSlice>({
      ...shared,
      resource: RESOURCES.endpointSlices,
      labelSelector: selectorOf({ [SERVICE_LABEL]: instancesServiceOf(name) }),
    });
  }

  /** Resolves with the plan once the pool and its slices are known. Waits for as long as the API server is away; rejects with the signal's reason. */
  async start(signal: AbortSignal): Promise<PoolPlan> {
    const first = Promise.withResolvers<PoolPlan>();
    // It may end while something else is waited for.
    first.promise.catch(() => {});
    const onAbort = () => first.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      this.#slices.start();
      this.#pools.start();
      await this.#slices.whenSynced(signal);
      this.#pools.onChange(
        () => ["pool"],
        () => this.#look(first.resolve),
      );
      this.#slices.onChange(() => ["slices"], this.#tellSoon);
      return await first.promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#pools.close(), this.#slices.close()]);
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
    const { status: _, spec, ...rest } = stored as KubeObject & Partial<Pick<LLMPool, "status" | "spec">>;
    // Stored by an API server that has checked it: a field that this release does not know is one of a later release, which means nothing here.
    specSchema ??= structural(LLMPoolSpec);
    const checked = validatePool(structuredClone({ ...rest, spec: prune(spec, specSchema) }));
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
    const slices = this.#slices.list();
    // A Service has one slice at least, be it an empty one: without any it has just been made, or deleted, and the pods have not changed.
    if (slices.length === 0)
      this.#options.log.warn("the instances' Service has no EndpointSlice: what was known stays");
    else if (this.#plan) this.#options.onAddresses(addressesOf(this.#plan, slices));
  }
}

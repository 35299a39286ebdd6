import { LABELS } from "../src/api/names.ts";
import type { Client } from "../src/kube/client.ts";
import { Informer } from "../src/kube/informer.ts";
import type { KubeMetrics } from "../src/kube/metrics.ts";
import { type KubeObject, keyOf } from "../src/kube/object.ts";
import { RESOURCES, type Resource, selectorOf } from "../src/kube/resource.ts";
import type { Clock } from "../src/lib/clock.ts";
import type { Logger } from "../src/lib/logger.ts";
import { LLMPOOLS, OWNED, type Pod } from "./kinds.ts";
import { podState } from "./pod-state.ts";
import { MANAGER } from "./render/names.ts";

export interface CachesOptions {
  client: Client;
  clock: Clock;
  random: () => number;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  /** Undefined: all namespaces. */
  namespace?: string | undefined;
}

/** Objects of pools, found by `namespace/pool`. */
export type OwnedInformer = Informer<KubeObject, "pool">;

/** Live copies of all pools and of everything that bears the operator's label. */
export class Caches implements AsyncDisposable {
  readonly pools: Informer<KubeObject>;
  readonly pods: Informer<Pod, "pool">;
  readonly #owned: Map<string, OwnedInformer>;
  readonly #makeOwned: (resource: Resource) => OwnedInformer;
  #soon: ((key: string) => void) | undefined;

  constructor(options: CachesOptions) {
    const mine = { ...options, labelSelector: selectorOf({ [LABELS.managedBy]: MANAGER }), indexes: { pool: poolOf } };
    this.pools = new Informer({ ...options, resource: LLMPOOLS });
    this.pods = new Informer<Pod, "pool">({ ...mine, resource: RESOURCES.pods, keep: keepPod });
    this.#makeOwned = (resource) => new Informer<KubeObject, "pool">({ ...mine, resource });
    this.#owned = new Map(OWNED.map((resource) => [resource.kind, this.#makeOwned(resource)]));
  }

  /** Whether objects of this kind are known: one that not every cluster has is, once it is followed and listed. */
  knows({ kind }: Resource): boolean {
    return this.#owned.get(kind)?.synced ?? false;
  }

  /**
   * Follows a kind that the cluster has got. Resolves when its objects are known; then every pool is looked at again. Before that the kind is none of the
   * caches that others wait for; when the signal fires first it is let go again.
   */
  async follow(resource: Resource, signal: AbortSignal): Promise<void> {
    const informer = this.#makeOwned(resource);
    informer.start();
    try {
      await informer.whenSynced(signal);
    } catch (error) {
      await informer.close();
      throw error;
    }
    this.#owned.set(resource.kind, informer);
    if (!this.#soon) return;
    informer.onChange(poolOf, this.#soon);
    for (const pool of this.pools.list()) this.#soon(keyOf(pool));
  }

  /** The cluster has lost a kind. Returns its cache, which is closed. */
  async unfollow({ kind }: Resource): Promise<OwnedInformer | undefined> {
    const informer = this.#owned.get(kind);
    this.#owned.delete(kind);
    await informer?.close();
    return informer;
  }

  /** The cache of one kind that pools are rendered to. */
  of(kind: string): OwnedInformer {
    const informer = this.#owned.get(kind);
    if (!informer) throw new TypeError(`no cache of kind ${kind}`);
    return informer;
  }

  /** The pod, or object of a kind that pools are rendered to, that bears this name now, whosever it is. */
  find(kind: string, namespace: string, name: string): KubeObject | undefined {
    const key = `${namespace}/${name}`;
    return kind === RESOURCES.pods.kind ? this.pods.get(key) : this.#owned.get(kind)?.get(key);
  }

  /** Everything of a kind that pools are rendered to, labelled as this pool's. */
  owned(key: string): KubeObject[] {
    return [...this.#owned.values()].flatMap((informer) => informer.by("pool", key));
  }

  get all(): (Informer<KubeObject> | OwnedInformer | Informer<Pod, "pool">)[] {
    return [this.pools, this.pods, ...this.#owned.values()];
  }

  start(): void {
    for (const informer of this.all) informer.start();
  }

  /**
   * Calls `add` with the key of every pool that changes or has a pod that serves and changed (it has just become ready, which somebody waits for), and
   * `soon` with that of every pool whose objects change.
   */
  onChange(add: (key: string) => void, soon: (key: string) => void): void {
    this.#soon = soon;
    this.pools.onChange((pool) => [keyOf(pool)], add);
    this.pods.onChange((pod) => (podState(pod).state === "Ready" ? poolOf(pod) : []), add);
    this.pods.onChange((pod) => (podState(pod).state === "Ready" ? [] : poolOf(pod)), soon);
    for (const informer of this.#owned.values()) informer.onChange(poolOf, soon);
  }

  async close(): Promise<void> {
    await Promise.all(this.all.map((informer) => informer.close()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Pods are most of what there is: only what is read of them is kept. Their containers are in their StatefulSets. */
export function keepPod({ apiVersion, kind, metadata, spec, status }: Pod): Pod {
  const { managedFields: _, ...own } = metadata;
  const { nodeName, readinessGates, volumes = [] } = spec ?? {};
  const { phase, conditions, containerStatuses, podIP } = status ?? {};
  return {
    apiVersion,
    kind,
    metadata: own,
    spec: {
      containers: [],
      ...(nodeName !== undefined && { nodeName }),
      ...(readinessGates && { readinessGates }),
      volumes: volumes.filter(({ persistentVolumeClaim }) => persistentVolumeClaim),
    },
    status: {
      ...(phase !== undefined && { phase }),
      ...(conditions && { conditions }),
      ...(containerStatuses && { containerStatuses }),
      ...(podIP !== undefined && { podIP }),
    },
  };
}

function poolOf({ metadata: { namespace, labels } }: KubeObject): string[] {
  const pool = labels?.[LABELS.pool];
  return pool === undefined ? [] : [`${namespace}/${pool}`];
}

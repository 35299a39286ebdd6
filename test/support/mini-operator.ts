import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import { Controller } from "../../src/kube/controller.ts";
import type { Credentials } from "../../src/kube/credentials.ts";
import { Expectations } from "../../src/kube/expectations.ts";
import { Informer } from "../../src/kube/informer.ts";
import { controllerOf, type KubeObject, keyOf, parseKey } from "../../src/kube/object.ts";
import { RESOURCES, selectorOf } from "../../src/kube/resource.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";

export type ConfigMap = KubeObject & { data?: Record<string, string> };

const LABELS = { pools: { role: "pool" }, children: { role: "child" } };
const FIELD_MANAGER = "mini";

/** A pool of the mini operator: it wants `replicas` children. */
export function miniPool(namespace: string, name: string, replicas: number): ConfigMap {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { namespace, name, labels: LABELS.pools },
    data: { replicas: String(replicas) },
  };
}

export interface MiniOptions {
  credentials: Credentials;
  clock: Clock;
  namespace: string;
  /** Names that nobody can foretell, so that a repeated creation is a second object: the hard case for a stale cache. */
  randomNames?: boolean;
  random?: () => number;
}

/**
 * The smallest operator that has every part of the machinery in it, over ConfigMaps: a pool wants so many children, which it owns; children
 * of a pool that is gone are removed. What is right for it is right for any.
 */
export class MiniOperator implements AsyncDisposable {
  readonly #options: MiniOptions;
  readonly #connection: Connection;
  readonly #client: Client;
  readonly pools: Informer<ConfigMap>;
  readonly children: Informer<ConfigMap, "owner">;
  readonly #expectations: Expectations;
  readonly controller: Controller;

  constructor(options: MiniOptions) {
    const { credentials, clock, namespace, random = Math.random } = options;
    this.#options = options;
    this.#connection = new Connection({ credentials, clock, userAgent: "mini" });
    this.#client = new Client({ connection: this.#connection, clock });
    const shared = {
      client: this.#client,
      resource: RESOURCES.configMaps,
      clock,
      random,
      log: silentLogger,
      namespace,
    };
    const ownerOf = (child: ConfigMap) => {
      const owner = controllerOf(child);
      return owner ? [`${child.metadata.namespace}/${owner.name}`] : [];
    };
    this.pools = new Informer<ConfigMap>({ ...shared, labelSelector: selectorOf(LABELS.pools) });
    this.children = new Informer<ConfigMap, "owner">({
      ...shared,
      labelSelector: selectorOf(LABELS.children),
      indexes: { owner: ownerOf },
    });
    this.#expectations = new Expectations(clock);
    this.controller = new Controller({
      name: "mini",
      reconcile: (key, signal) => this.#reconcile(key, signal),
      informers: [this.pools, this.children],
      expectations: this.#expectations,
      workers: 2,
      clock,
      random,
      log: silentLogger,
    });
    this.pools.onChange(
      (pool) => [keyOf(pool)],
      (key) => this.controller.queue.add(key),
    );
    this.children.onChange(ownerOf, (key) => this.controller.queue.add(key));
  }

  start(): void {
    this.pools.start();
    this.children.start();
    this.controller.start();
  }

  async close(): Promise<void> {
    await this.controller.close();
    await Promise.all([this.pools.close(), this.children.close()]);
    await this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #reconcile(key: string, signal: AbortSignal): Promise<object> {
    const pool = this.pools.get(key);
    const { namespace = "", name } = parseKey(key);
    const mine = this.children.by("owner", key).filter(({ metadata }) => metadata.deletionTimestamp === undefined);
    // The children of an earlier pool of this name are not this one's.
    const own = mine.filter((child) => controllerOf(child)?.uid === pool?.metadata.uid);
    const wanted = Number(pool?.data?.replicas ?? 0);
    const names = Array.from({ length: wanted }, (_, i) => `${name}-${i}`);
    const surplus = this.#options.randomNames
      ? [...mine.filter((child) => !own.includes(child)), ...own.slice(wanted)]
      : mine.filter((child) => !own.includes(child) || !names.includes(child.metadata.name));
    for (const child of surplus) {
      const { uid } = child.metadata;
      await this.#client.delete(RESOURCES.configMaps, child.metadata, { uid, signal });
      this.#expectations.deleted(key, this.children, child);
    }
    if (!pool) return {};
    const missing = this.#options.randomNames
      ? Array.from({ length: Math.max(0, wanted - own.length) }, () => `${name}-${crypto.randomUUID()}`)
      : names.filter((name) => !own.some((child) => child.metadata.name === name));
    for (const childName of missing) {
      const child = this.#childOf(pool, namespace, childName);
      const stored = this.#options.randomNames
        ? await this.#client.create(child, { signal })
        : await this.#client.apply(child, { fieldManager: FIELD_MANAGER, force: true, signal });
      this.#expectations.wrote(key, this.children, stored);
    }
    return {};
  }

  #childOf(pool: ConfigMap, namespace: string, name: string): ConfigMap {
    const { uid = "" } = pool.metadata;
    const owner = { apiVersion: "v1", kind: "ConfigMap", name: pool.metadata.name, uid, controller: true };
    return {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { namespace, name, labels: LABELS.children, ownerReferences: [owner] },
      data: { of: pool.metadata.name },
    };
  }
}

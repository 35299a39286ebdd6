import type { V1Node, V1ResourceSlice } from "@kubernetes/client-node";
import type { Client } from "../../src/kube/client.ts";
import { ApiError } from "../../src/kube/errors.ts";
import { Informer } from "../../src/kube/informer.ts";
import type { KubeMetrics } from "../../src/kube/metrics.ts";
import type { KubeObject, ObjectOf } from "../../src/kube/object.ts";
import { pathOf, RESOURCES, type Resource } from "../../src/kube/resource.ts";
import type { Clock } from "../../src/lib/clock.ts";
import { messageOf } from "../../src/lib/errors.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { oncePerMicrotask } from "../../src/lib/once-per-microtask.ts";
import { sleep } from "../../src/lib/sleep.ts";

export type Node = ObjectOf<V1Node>;
export type Slice = ObjectOf<V1ResourceSlice>;

export interface CardsOptions {
  client: Client;
  clock: Clock;
  random: () => number;
  log: Logger;
  metrics?: KubeMetrics | undefined;
}

/** How often to ask again for what the cluster does not have or does not show us, in milliseconds. */
const ASK_MS = 60_000;

/** What cards the cluster has: its nodes, and the devices that drivers publish for claims. Either may be hidden from the operator, or not exist. */
export class Cards implements AsyncDisposable {
  readonly #options: CardsOptions;
  readonly #end = new AbortController();
  readonly #listeners = new Set<() => void>();
  readonly #running: Promise<void>[] = [];
  #nodes: Informer<Node> | undefined;
  #slices: Informer<Slice> | undefined;
  #seen = "";
  readonly #look = oncePerMicrotask(() => this.#compare());

  constructor(options: CardsOptions) {
    this.#options = options;
  }

  /** Resolves once it is known what can be read, and that has been read. Rejects with the signal's reason. */
  async start(signal: AbortSignal): Promise<void> {
    const asked = [
      this.#follow(
        RESOURCES.nodes,
        (nodes: Informer<Node> | undefined) => {
          this.#nodes = nodes;
        },
        keepNode,
      ),
      this.#follow(RESOURCES.resourceSlices, (slices: Informer<Slice> | undefined) => {
        this.#slices = slices;
      }),
    ];
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      signal.throwIfAborted();
      await Promise.race([Promise.all(asked), aborted.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Undefined: the operator may not read them. */
  nodes(): Node[] | undefined {
    return this.#nodes?.list();
  }

  /** Undefined: the cluster knows no such kind, or the operator may not read it. */
  slices(): Slice[] | undefined {
    return this.#slices?.list();
  }

  /** Calls the listener when there are other cards; a node's heartbeats are no news. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#end.abort(new Error("the cards are closed"));
    await Promise.all([...this.#running, this.#nodes?.close(), this.#slices?.close()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Resolves after the first answer, and goes on asking while it is no. */
  #follow<T extends KubeObject>(
    resource: Resource,
    set: (informer: Informer<T> | undefined) => void,
    keep?: (object: T) => T,
  ): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#end;
    const first = Promise.withResolvers<void>();
    const run = async () => {
      while (!signal.aborted) {
        if (await this.#mayList(resource)) {
          const informer = new Informer<T>({ ...this.#options, resource, ...(keep && { keep }) });
          set(informer);
          informer.start();
          await informer.whenSynced(signal);
          informer.onChange(() => ["cards"], this.#look);
          return;
        }
        log.info("cards of this kind are not known: it cannot be read", { kind: resource.kind });
        first.resolve();
        await sleep(clock, ASK_MS, signal);
      }
    };
    this.#running.push(
      run()
        .catch(() => {})
        .finally(first.resolve),
    );
    return first.promise;
  }

  async #mayList(resource: Resource): Promise<boolean> {
    const { client, log, clock } = this.#options;
    const { signal } = this.#end;
    for (;;) {
      try {
        await client.request("GET", pathOf(resource), { query: { limit: 1 }, signal });
        return true;
      } catch (error) {
        if (error instanceof ApiError && (error.status === 403 || error.status === 404)) return false;
        signal.throwIfAborted();
        log.warn("cannot ask for cards", { kind: resource.kind, error: messageOf(error) });
        await sleep(clock, ASK_MS / 60, signal);
      }
    }
  }

  #compare(): void {
    const seen = JSON.stringify([this.#nodes?.list().map(facts), this.#slices?.list().map(({ spec }) => spec)]);
    if (seen === this.#seen) return;
    this.#seen = seen;
    for (const listener of [...this.#listeners]) listener();
  }
}

/** Nodes are large and change all the time: only what tells of cards is kept. */
function keepNode({ apiVersion, kind, metadata, status }: Node): Node {
  const { name, uid, resourceVersion, labels } = metadata;
  const allocatable = Object.entries(status?.allocatable ?? {}).filter(([resource]) => resource.includes("/"));
  return {
    apiVersion,
    kind,
    metadata: {
      name,
      ...(uid !== undefined && { uid }),
      ...(resourceVersion !== undefined && { resourceVersion }),
      ...(labels && { labels }),
    },
    status: { allocatable: Object.fromEntries(allocatable) },
  };
}

const facts = ({ metadata: { name, labels }, status }: Node) => [name, labels, status?.allocatable];

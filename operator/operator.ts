import { randomBytes } from "node:crypto";
import { Client } from "../src/kube/client.ts";
import { Connection } from "../src/kube/connection.ts";
import { Controller } from "../src/kube/controller.ts";
import type { Credentials } from "../src/kube/credentials.ts";
import { EventRecorder } from "../src/kube/events.ts";
import { Expectations } from "../src/kube/expectations.ts";
import { acquireLease } from "../src/kube/lease.ts";
import type { KubeMetrics } from "../src/kube/metrics.ts";
import { keyOf } from "../src/kube/object.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import type { Clock } from "../src/lib/clock.ts";
import type { Logger } from "../src/lib/logger.ts";
import { type Ask, askOverHttp } from "./ask.ts";
import { Caches } from "./caches.ts";
import { Cards } from "./gpu/cards.ts";
import { LLMPOOLS } from "./kinds.ts";
import { followWhileThere, type OptionalKindDeps } from "./optional-kind.ts";
import { Prober } from "./prober.ts";
import { makeReconciler } from "./reconcile.ts";
import { MANAGER } from "./render/names.ts";
import type { RenderSettings } from "./render/settings.ts";
import { EventWords } from "./words.ts";

export interface OperatorOptions {
  credentials: Credentials;
  version: string;
  images: RenderSettings["images"];
  /** Where its Lease is, and where its pods are for the instances' NetworkPolicy. */
  ownNamespace: string;
  /** Whose pools it looks after; undefined: everybody's. */
  namespace?: string | undefined;
  /** Of this process and no other, ever. */
  identity: string;
  clock: Clock;
  random: () => number;
  log: Logger;
  metrics?: KubeMetrics | undefined;
  /** How instances are asked; default over HTTP. */
  ask?: Ask;
  /** Pools that are worked on at the same time. */
  workers?: number;
}

/** What pods and other objects tell within this time is looked at once, in milliseconds: a start of five pods is some fifty such notices. */
const TOGETHER_MS = 100;

/**
 * Looks after pools while it holds the Lease; before that it keeps its caches warm. Resolves when `signal` fires; rejects when the Lease is lost, and
 * the process should then end. `onSynced` is called once its caches are complete.
 */
export async function runOperator(options: OperatorOptions, signal: AbortSignal, onSynced = () => {}): Promise<void> {
  const { credentials, version, clock, random, log, metrics, namespace, ownNamespace, identity } = options;
  await using stack = new AsyncDisposableStack();
  const connection = stack.use(new Connection({ credentials, clock, userAgent: `${MANAGER}/${version}` }));
  const client = new Client({ connection, clock, resources: [LLMPOOLS], ...(metrics && { metrics }) });
  try {
    const caches = stack.use(new Caches({ client, clock, random, log, metrics, namespace }));
    const expectations = new Expectations(clock);
    await followMonitors(stack, { client, caches, expectations, clock, log }, signal);
    const cards = stack.use(new Cards({ client, clock, random, log, metrics }));
    caches.start();
    await Promise.all([...caches.all.map((cache) => cache.whenSynced(signal)), cards.start(signal)]);
    onSynced();
    log.info("caches are complete", { pools: caches.pools.size });

    const lease = {
      client,
      namespace: ownNamespace,
      name: leaseName(namespace),
      identity,
      clock,
      random,
      log,
      metrics,
    };
    const leadership = stack.use(await acquireLease(lease, signal));
    const guarded = client.guarded(() => leadership.ensure());
    const instance = identity.slice(0, 128);
    const recorder = stack.use(
      new EventRecorder({ client: guarded, controller: `llmpool.dev/${MANAGER}`, instance, clock, log, metrics }),
    );
    let queue: Controller["queue"] | undefined;
    const ask = options.ask ?? askOverHttp;
    const prober = stack.use(new Prober({ ask, clock, onChange: (key) => queue?.add(key) }));
    const controller = stack.use(
      new Controller({
        name: "llmpool",
        informers: caches.all,
        expectations,
        workers: options.workers ?? 4,
        reconcile: makeReconciler({
          client: guarded,
          caches,
          expectations,
          settings: { images: options.images, operatorNamespace: ownNamespace },
          recorder,
          prober,
          cards,
          eventWords: new EventWords(client, clock),
          makeToken: () => randomBytes(32).toString("base64url"),
          clock,
        }),
        clock,
        random,
        log,
        metrics,
      }),
    );
    queue = controller.queue;
    caches.onChange(
      (key) => controller.queue.add(key),
      (key) => controller.queue.addAfter(key, TOGETHER_MS),
    );
    cards.onChange(() => {
      for (const pool of caches.pools.list()) controller.queue.add(keyOf(pool));
    });
    controller.start();
    const ended = AbortSignal.any([signal, leadership.signal]);
    if (!ended.aborted) await new Promise((done) => ended.addEventListener("abort", done, { once: true }));
    if (!signal.aborted) throw leadership.signal.reason;
  } catch (error) {
    // Asked to end while it waited for the API server or the Lease.
    if (!signal.aborted) throw error;
  }
}

/** Operators of different namespaces may live in one: they do not wait for each other. */
const leaseName = (namespace: string | undefined) => (namespace === undefined ? MANAGER : `${MANAGER}.${namespace}`);

/** Looks for the kind PodMonitor, now and until the stack is disposed of: whoever installs Prometheus later need not restart the operator. */
async function followMonitors(stack: AsyncDisposableStack, deps: OptionalKindDeps, signal: AbortSignal): Promise<void> {
  const end = new AbortController();
  const asked = Promise.withResolvers<void>();
  const ended = followWhileThere(RESOURCES.podMonitors, deps, AbortSignal.any([signal, end.signal]), asked.resolve);
  stack.defer(async () => {
    end.abort(new Error("closed"));
    await ended;
  });
  await asked.promise;
}

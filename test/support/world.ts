import { onTestFinished } from "vitest";
import { LLMPOOLS, OWNED } from "../../operator/kinds.ts";
import { MANAGER } from "../../operator/render/names.ts";
import { LABELS } from "../../src/api/names.ts";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import type { Credentials } from "../../src/kube/credentials.ts";
import { Informer } from "../../src/kube/informer.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES, selectorOf } from "../../src/kube/resource.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import type { TestCluster } from "./cluster.ts";

type Watched = Informer<KubeObject, "namespace">;

/** What two runs of the same story may differ in: whatever the server, the scheduler, the clock or chance choose. */
const CHOSEN: readonly string[] = [
  "uid",
  "resourceVersion",
  "creationTimestamp",
  "managedFields",
  "lastTransitionTime",
  "lastUpdateTime",
  "lastProbeTime",
  "startTime",
  "startedAt",
  "finishedAt",
  "clusterIP",
  "clusterIPs",
  "podIP",
  "podIPs",
  "hostIP",
  "hostIPs",
  "nodeName",
  "node",
  // Hash of an object with the namespace in it.
  "llmpool.dev/applied",
];

/** What Kubernetes appends to the name of a template's revision. */
const TEMPLATE_HASH = /-[bcdfghjklmnpqrstvwxz2456789]{7,10}\b/g;

/** Annotation by which a test makes the operator look again. */
export const NUDGE = "looked";

/**
 * Everything that pools are made of, in every namespace, as the API server's administrator sees it: what is there now, and how often each object
 * was made. What two runs differ in is masked, so that they can be compared.
 */
export class World implements AsyncDisposable {
  readonly client: Client;
  readonly #connection: Connection;
  readonly #informers: readonly Watched[];
  /** Uids ever seen, by `namespace Kind/name`. */
  readonly #seen = new Map<string, Set<string>>();

  private constructor(credentials: Credentials) {
    this.#connection = new Connection({ credentials, clock: systemClock, userAgent: "llmpool-test-world" });
    this.client = new Client({ connection: this.#connection, clock: systemClock, resources: [LLMPOOLS] });
    const shared = { client: this.client, clock: systemClock, random: Math.random, log: silentLogger };
    const indexes = { namespace: ({ metadata }: KubeObject) => [metadata.namespace ?? ""] };
    const labelSelector = selectorOf({ [LABELS.managedBy]: MANAGER });
    this.#informers = [
      new Informer({ ...shared, resource: LLMPOOLS, indexes }),
      ...[...OWNED, RESOURCES.pods, RESOURCES.secrets].map(
        (resource) => new Informer({ ...shared, resource, indexes, labelSelector }),
      ),
    ];
  }

  static async watch(credentials: Credentials): Promise<World> {
    const world = new World(credentials);
    for (const informer of world.#informers) {
      informer.onChange(
        (object) => world.#notes(object),
        () => {},
      );
      informer.start();
    }
    const signal = AbortSignal.timeout(60_000);
    await Promise.all(world.#informers.map((informer) => informer.whenSynced(signal)));
    return world;
  }

  /** Objects of a namespace, as they are. */
  objects(namespace: string): KubeObject[] {
    return this.#informers.flatMap((informer) => informer.by("namespace", namespace));
  }

  /** The same by `Kind/name`, without what two runs differ in; pods with names of chance, as those of routers, are counted. */
  state(namespace: string): Record<string, unknown> {
    const state: Record<string, unknown> = {};
    for (const object of this.objects(namespace)) {
      const name = nameOf(object);
      if (name.endsWith("*")) state[name] = ((state[name] as number | undefined) ?? 0) + 1;
      else state[name] = masked(object, namespace);
    }
    return Object.fromEntries(Object.entries(state).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** Uid and generation of each object of a namespace, by `Kind/name`. */
  versions(namespace: string): Record<string, string> {
    return Object.fromEntries(
      this.objects(namespace).map(({ kind, metadata: { name, uid, generation } }) => [
        `${kind}/${name}`,
        `${uid} ${generation}`,
      ]),
    );
  }

  /** How often each object of a namespace has been made until now, by `Kind/name`. */
  made(namespace: string): Record<string, number> {
    const mine = [...this.#seen].filter(([name]) => name.startsWith(`${namespace} `));
    return Object.fromEntries(
      mine.map(([name, uids]) => [name.slice(namespace.length + 1), uids.size] as const).sort(),
    );
  }

  /** Uids of all objects that a namespace has ever had. */
  uids(namespace: string): Set<string> {
    const mine = [...this.#seen].filter(([name]) => name.startsWith(`${namespace} `));
    return new Set(mine.flatMap(([, uids]) => [...uids]));
  }

  #notes(object: KubeObject): string[] {
    const name = `${object.metadata.namespace} ${nameOf(object)}`;
    const uids = this.#seen.get(name) ?? new Set();
    this.#seen.set(name, uids.add(object.metadata.uid ?? ""));
    return [];
  }

  async close(): Promise<void> {
    await Promise.all(this.#informers.map((informer) => informer.close()));
    await this.#connection.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Fake nodes, and a view of everything on them; both go after the test. `real`: who sees all and may do all. */
export async function worldOf(cluster: TestCluster, nodes: number): Promise<{ real: Credentials; world: World }> {
  await cluster.addFakeNodes({ count: nodes });
  const real = fromKubeconfig(cluster.kubeconfig);
  const world = await World.watch(real);
  onTestFinished(() => world.close());
  return { real, world };
}

function nameOf({ kind, metadata: { name, labels } }: KubeObject): string {
  const chance = kind === "Pod" && labels?.["pod-template-hash"] !== undefined;
  return `${kind}/${chance ? name.replace(/-[^-]+-[^-]+$/, "-*") : name}`;
}

/** An object without what two runs of one story differ in, and without what Kubernetes' own controllers come to say of it in their own time. */
export function masked(object: KubeObject, namespace: string): unknown {
  const told = object.kind === "LLMPool" || object.kind === "Pod" ? object : { ...object, status: undefined };
  const text = JSON.stringify(told, (key, value: unknown) => {
    if (CHOSEN.includes(key)) return undefined;
    if (key === "annotations" && isObject(value) && NUDGE in value) {
      const { [NUDGE]: _, ...others } = value;
      return Object.keys(others).length > 0 ? others : undefined;
    }
    // A token is random.
    if (key === "data" && object.kind === "Secret") return Object.keys(value as object);
    return value;
  });
  return JSON.parse(text.replaceAll(namespace, "<namespace>").replaceAll(TEMPLATE_HASH, "-<hash>"));
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

import { LLMPOOLS, OWNED } from "../../operator/kinds.ts";
import { API_VERSION, LABELS } from "../../src/api/names.ts";
import type { Client } from "../../src/kube/client.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES, selectorOf } from "../../src/kube/resource.ts";
import { masked } from "./world.ts";

/** By `Kind/name`; pods of a Deployment, whose names are random, by `Pod/…#0`. */
export type EndState = Record<string, unknown>;

/** A pod keeps the drain time that it began with: to end it for a longer one would cost what that time is to save. */
const DRAIN = /(\\?)"drainSeconds\1":\d+/g;

/** What depends on how a pool came to be what it is, or on its neighbours, by the name of the field. Names of generated pods are in their owners' hands. */
const OWN_FIELDS = new Set([
  "generation",
  "observedGeneration",
  "nodePort",
  "healthCheckNodePort",
  "volumeName",
  "generateName",
  "controller-revision-hash",
  "pod-template-hash",
  "deployment.kubernetes.io/revision",
  // Of instances, told now and then.
  "device",
  "warmupSeconds",
  "tokensPerSecond",
]);

/** The rest of the name of a Deployment's pod, in the words of others. */
const CHANCE = /-<hash>-[a-z0-9]{5}\b/g;

/** What the controller of volumes writes into a claim once it has one. */
const VOLUMES_OWN = /^(pv|volume(?:[.]beta)?)[.]kubernetes[.]io[/]/;

/**
 * A pool and all that belongs to it, as it would read in any namespace and at any time: two of the same spec are equal, however they came to be
 * what they are. Of Kubernetes' own objects the status is left out, and of Secrets the data; Jobs are, too, for one that has done its work may go.
 */
export async function endState(client: Client, namespace: string, pool: string): Promise<EndState> {
  const labelSelector = selectorOf({ [LABELS.pool]: pool });
  const kinds = [...OWNED, RESOURCES.secrets, RESOURCES.pods].filter(({ kind }) => kind !== "Job");
  const [whole, ...lists] = await Promise.all([
    client.get<KubeObject>(LLMPOOLS, { namespace, name: pool }),
    ...kinds.map((kind) => client.list<KubeObject>(kind, { namespace, labelSelector })),
  ]);
  const objects = [whole, ...lists.flatMap(({ items }) => items)].filter((object) => !isLoader(object));
  const seen = new Map<string, number>();
  const named = objects.map((object) => {
    const generated = object.kind === "Pod" && object.metadata.labels?.[LABELS.component] === "router";
    const name = `${object.kind}/${generated ? pool : object.metadata.name}`;
    const count = seen.get(name) ?? 0;
    seen.set(name, count + 1);
    return [generated ? `${name}#${count}` : name, shown(object, namespace)] as const;
  });
  return Object.fromEntries(named.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Names of what the two do not have alike, and where it differs first; empty: nothing. */
export function differences(a: EndState, b: EndState): string[] {
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])].sort();
  return names.flatMap((name) => {
    const at = firstDifference(a[name], b[name]);
    return at === undefined ? [] : [`${name}${at}`];
  });
}

const isLoader = ({ kind, metadata }: KubeObject) => kind === "Pod" && metadata.labels?.[LABELS.component] === "loader";

function shown(object: KubeObject, namespace: string): unknown {
  const { status, ...rest } = masked(object, namespace) as KubeObject & { status?: unknown };
  if (object.apiVersion === API_VERSION) return without({ ...rest, status });
  if (object.kind !== "Pod") return without(rest);
  const { metadata, spec } = rest as KubeObject & { spec: Record<string, unknown> };
  const { terminationGracePeriodSeconds: _, ...kept } = spec;
  const { labels, annotations } = metadata;
  return without({
    labels,
    annotations,
    spec: JSON.parse(JSON.stringify(kept).replace(DRAIN, '$1"drainSeconds$1":0')),
  });
}

function without(value: unknown): unknown {
  if (typeof value === "string")
    return value.replace(CHANCE, "-POD").replace(/^kube-api-access-\w{5}$/, "kube-api-access");
  if (Array.isArray(value)) return value.map(without);
  if (typeof value !== "object" || value === null) return value;
  const fields = Object.entries(value).filter(([name]) => !OWN_FIELDS.has(name) && !VOLUMES_OWN.test(name));
  return Object.fromEntries(fields.map(([name, inner]) => [name, without(inner)]));
}

function firstDifference(a: unknown, b: unknown): string | undefined {
  if (Object.is(a, b)) return undefined;
  if (typeof a === "object" && typeof b === "object" && a !== null && b !== null) {
    for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
      const inner = firstDifference((a as EndState)[key], (b as EndState)[key]);
      if (inner !== undefined) return `.${key}${inner}`;
    }
    return undefined;
  }
  return `: ${text(a)}, not ${text(b)}`;
}

const text = (value: unknown) =>
  value === undefined ? "nothing" : (JSON.stringify(value)?.slice(0, 300) ?? "nothing");

import type { V1ConfigMap, V1Deployment, V1Job, V1StatefulSet } from "@kubernetes/client-node";
import type { LLMPool } from "../src/api/llmpool.ts";
import { ANNOTATIONS, CONTAINERS, LABELS } from "../src/api/names.ts";
import { controllerOf, type ObjectOf } from "../src/kube/object.ts";
import { isOwned, type Owner } from "./apply.ts";
import type { Caches } from "./caches.ts";
import type { Pod } from "./kinds.ts";
import { type ObservedLoad, observeLoad } from "./model-state.ts";
import { loadsOf } from "./render/model-load.ts";
import { namesOf } from "./render/names.ts";
import type { RenderedVariant } from "./render/variant.ts";
import { ordinalOf } from "./rollout.ts";

/** What the caches show of a pool: objects of its own, and nobody else's. */
export interface Observed {
  variants: ObservedVariant[];
  /** Models that belong on volumes, each once. */
  loads: ObservedLoad[];
  /** Pods of instances that no variant has or wants: of a removed variant, or beyond its number. They end, or are to. */
  surplus: Pod[];
  router: { deployment: ObjectOf<V1Deployment> | undefined; pods: Pod[] };
}

export interface ObservedVariant {
  rendered: RenderedVariant;
  set: ObjectOf<V1StatefulSet> | undefined;
  /** Of this StatefulSet, by ordinal; also those that leave. */
  pods: Pod[];
  /** That of its model, where it belongs on a volume. */
  load: ObservedLoad | undefined;
}

export function gather(pool: LLMPool, variants: readonly RenderedVariant[], owner: Owner, caches: Caches): Observed {
  const { name } = pool.metadata;
  const names = namesOf(name);
  const namespace = owner.key.slice(0, owner.key.indexOf("/"));
  const pods = caches.pods.by("pool", owner.key);
  const mine = <T>(kind: string, objectName: string): T | undefined => {
    const object = caches.of(kind).get(`${namespace}/${objectName}`);
    return object && isOwned(object, owner) ? (object as T) : undefined;
  };
  const loads = loadsOf(variants).map((load) =>
    observeLoad(
      load,
      mine<ObjectOf<V1ConfigMap>>("ConfigMap", load.factsName),
      mine<ObjectOf<V1Job>>("Job", load.jobName),
      pods,
    ),
  );
  const observed = variants.map((rendered): ObservedVariant => {
    const set = mine<ObjectOf<V1StatefulSet>>("StatefulSet", names.variant(rendered.plan.name));
    const own = pods.filter((pod) => set !== undefined && controllerOf(pod)?.uid === set.metadata.uid);
    const load = loads.find((one) => one.load.factsName === rendered.load?.factsName);
    return { rendered, set, pods: own.sort((a, b) => ordinalOf(a) - ordinalOf(b)), load };
  });
  const kept = new Set(observed.flatMap(({ rendered, pods }) => pods.filter((pod) => ordinalOf(pod) < rendered.pods)));
  return {
    loads,
    variants: observed,
    surplus: pods.filter((pod) => pod.metadata.labels?.[LABELS.component] === "instance" && !kept.has(pod)),
    router: {
      deployment: mine<ObjectOf<V1Deployment>>("Deployment", names.router),
      pods: pods.filter((pod) => pod.metadata.labels?.[LABELS.component] === "router"),
    },
  };
}

/** The image that the router's pods have now, as long as the pool asks for the same of them and one of them serves: a new release restarts no such router. */
export function keptRouterImage(
  { router: { deployment } }: Observed,
  revision: string | undefined,
): string | undefined {
  if (deployment?.metadata.annotations?.[ANNOTATIONS.revision] !== revision) return undefined;
  // The image may be the cause.
  if ((deployment?.status?.availableReplicas ?? 0) === 0) return undefined;
  const containers = deployment?.spec?.template.spec?.containers ?? [];
  return containers.find(({ name }) => name === CONTAINERS.router)?.image;
}

import type { V1Deployment, V1StatefulSet } from "@kubernetes/client-node";
import { LLMPOOLS, type Pod } from "../../operator/kinds.ts";
import type { LLMPool, LLMPoolStatus } from "../../src/api/llmpool.ts";
import { ANNOTATIONS, LABELS } from "../../src/api/names.ts";
import type { Client } from "../../src/kube/client.ts";
import { controllerOf, type KubeObject, type ObjectMeta, type ObjectOf } from "../../src/kube/object.ts";
import { RESOURCES, selectorOf } from "../../src/kube/resource.ts";

type Pool = KubeObject & Pick<LLMPool, "spec">;

/**
 * What a status that is about to be written promises and the cluster does not hold, in words; empty: it is true. Only for pools without variants
 * whose pods nobody but the operator and its test changes.
 */
export async function aheadOfReality(
  client: Client,
  { namespace, name, uid }: ObjectMeta,
  status: LLMPoolStatus | undefined,
): Promise<string[]> {
  const place = { namespace, name };
  const pool = await client.find<Pool>(LLMPOOLS, place);
  // Of an earlier pool: the server refuses it.
  if (!pool || pool.metadata.uid !== uid || !status) return [];
  const { generation = 0 } = pool.metadata;
  const { observedGeneration: told = 0 } = status;
  if (told > generation) return [`it says that generation ${told} is observed, which is not there yet`];
  // Of an earlier spec nothing can be said any more.
  if (told < generation) return [];
  const labelSelector = selectorOf({ [LABELS.pool]: name, [LABELS.component]: "instance" });
  const [set, deployment, service, pods] = await Promise.all([
    client.find<ObjectOf<V1StatefulSet>>(RESOURCES.statefulSets, place),
    client.find<ObjectOf<V1Deployment>>(RESOURCES.deployments, place),
    client.find<KubeObject>(RESOURCES.services, place),
    client.list<Pod>(RESOURCES.pods, { namespace, labelSelector }),
  ]);
  const is = (type: string, value: string) =>
    status.conditions?.some((condition) => condition.type === type && condition.status === value) === true;
  const wanted = pool.spec.instances ?? 0;
  const revision = set?.spec?.template.metadata?.annotations?.[ANNOTATIONS.revision];
  const ready = pods.items.filter(isReady).length;
  const { observedGeneration = 0, updatedReplicas = 0, availableReplicas = 0 } = deployment?.status ?? {};
  const promises: [when: boolean, promise: string, kept: boolean][] = [
    [is("Ready", "True") || is("InstancesReady", "True"), `${wanted} instances are ready`, ready >= wanted],
    [is("RouterReady", "True"), "a router serves", availableReplicas > 0],
    [is("Progressing", "False"), "it has a Service", service !== undefined && controllerOf(service)?.uid === uid],
    [is("Progressing", "False"), `the set has ${wanted} pods`, set?.spec?.replicas === wanted],
    [is("Progressing", "False"), `there are ${wanted} pods and no others`, pods.items.length === wanted],
    [
      is("Progressing", "False"),
      "every pod has the newest revision",
      pods.items.every(({ metadata }) => metadata.annotations?.[ANNOTATIONS.revision] === revision),
    ],
    [
      is("Progressing", "False"),
      "the router is as its Deployment says",
      observedGeneration === deployment?.metadata.generation && Math.min(updatedReplicas, availableReplicas) > 0,
    ],
  ];
  return promises.flatMap(([when, promise, kept]) =>
    when && !kept ? [`generation ${generation}: it says that ${promise}, which is not so`] : [],
  );
}

const isReady = ({ metadata, status }: Pod): boolean =>
  metadata.deletionTimestamp === undefined &&
  status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true;

import type { V1Node, V1ResourceSlice } from "@kubernetes/client-node";
import type { Quantity } from "../../src/api/fields.ts";
import { parseQuantity } from "../../src/core/quantity.ts";
import type { ObjectOf } from "../../src/kube/object.ts";
import type { PodSpec } from "../render/pod.ts";

/** Cards of one kind on one node. */
export interface CardOffer {
  node: string;
  /** As the node's labels or the driver call it. */
  product: string;
  /** What one unit of the resource has, in bytes; undefined: nobody says. */
  memory: number | undefined;
  /** Units, taken or not. */
  count: number;
}

type Node = Pick<ObjectOf<V1Node>, "metadata" | "status">;
type Slice = Pick<ObjectOf<V1ResourceSlice>, "spec">;

/**
 * What nodes offer of an extended resource, from the labels of GPU feature discovery. A MIG slice has labels of its own (`nvidia.com/mig-1g.10gb.memory`).
 * Where a card is shared by time-slicing or MPS, each of its replicas counts for its part of the memory: MPS enforces that, and with time-slicing all
 * of them may be in use.
 */
export function nodeOffers(nodes: readonly Node[], resource: string): CardOffer[] {
  const name = resource.replace(/[.]shared$/, "").replace(/^.*[/]/, "");
  return nodes.flatMap(({ metadata, status }) => {
    const count = Number(status?.allocatable?.[resource] ?? 0);
    if (!(count > 0)) return [];
    const label = (key: string) => metadata.labels?.[`nvidia.com/${name}.${key}`];
    const mebibytes = Number(label("memory") ?? Number.NaN) / Math.max(1, Number(label("replicas") ?? 1));
    const product = label("product") ?? metadata.labels?.["nvidia.com/gpu.product"] ?? resource;
    const memory = resource.startsWith("nvidia.com/") && mebibytes > 0 ? mebibytes * 2 ** 20 : undefined;
    return [{ node: metadata.name, product, memory, count }];
  });
}

/** What drivers publish for claims: every device that says how much memory it has. */
export function deviceOffers(slices: readonly Slice[]): CardOffer[] {
  return slices.flatMap(({ spec }) =>
    (spec.devices ?? []).flatMap(({ attributes, capacity }) => {
      const memory = capacity?.memory?.value;
      if (memory === undefined) return [];
      const product = attributes?.productName?.string ?? spec.driver;
      return [{ node: spec.nodeName ?? "", product, memory: parseQuantity(memory as Quantity), count: 1 }];
    }),
  );
}

/** Whether the pods' own words let them onto a node: its node selector and the terms that its node affinity requires. */
export function mayRunOn(labels: Record<string, string>, { nodeSelector, affinity }: Partial<PodSpec>): boolean {
  if (!Object.entries(nodeSelector ?? {}).every(([key, value]) => labels[key] === value)) return false;
  const terms = affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms;
  if (!Array.isArray(terms)) return true;
  return terms.some((term) => listIn(term?.matchExpressions).every((one) => matches(labels, one)));
}

/** The user wrote it, and nobody has judged it yet: the API server refuses what has another shape. */
const listIn = <T>(value: T[] | undefined): T[] => (Array.isArray(value) ? value : []);

function matches(
  labels: Record<string, string>,
  expression: { key: string; operator: string; values?: string[] },
): boolean {
  const { key, operator } = expression ?? {};
  const values = listIn(expression?.values);
  const value = labels[key];
  switch (operator) {
    case "In":
      return value !== undefined && values.includes(value);
    case "NotIn":
      return value === undefined || !values.includes(value);
    case "Exists":
      return value !== undefined;
    case "DoesNotExist":
      return value === undefined;
    case "Gt":
      return Number(value) > Number(values[0]);
    case "Lt":
      return Number(value) < Number(values[0]);
    default:
      return true;
  }
}

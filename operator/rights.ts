import { GROUP } from "../src/api/names.ts";
import { RESOURCES, type Resource } from "../src/kube/resource.ts";
import { isExpendable, LLMPOOLS, OWNED } from "./kinds.ts";

/** A rule of RBAC, as a Role holds it. */
export interface Rule {
  apiGroups: string[];
  resources: string[];
  verbs: string[];
}

const READ = ["get", "list", "watch"];

/**
 * What the operator may do with pools and what they are made of, and no more: the chart's role is made of this. What is here without a call
 * of ours: `get` of pools and all of `endpointslices` are handed on to each router, and nobody may give what he has not; `finalizers` lets it name a
 * pool as an owner that its objects hold up, where the cluster asks for that (OwnerReferencesPermissionEnforcement).
 */
export const RIGHTS: readonly Rule[] = [
  rule(LLMPOOLS, READ),
  { apiGroups: [GROUP], resources: ["llmpools/status"], verbs: ["patch"] },
  { apiGroups: [GROUP], resources: ["llmpools/finalizers"], verbs: ["update"] },
  rule(RESOURCES.endpointSlices, READ),
  rule(RESOURCES.pods, ["list", "watch", "delete"]),
  // Single ones, by their name: never listed.
  rule(RESOURCES.secrets, ["get", "create"]),
  rule(RESOURCES.events, ["create", "patch"]),
  // Of a quota or a volume that cannot be made only Events tell: read for what stays behind.
  { apiGroups: [""], resources: ["events"], verbs: ["list"] },
  // How many cards a claim asks for.
  rule(RESOURCES.resourceClaimTemplates, ["get"]),
  ...[...OWNED, RESOURCES.podMonitors].map((kind) =>
    rule(kind, [...READ, "create", "patch", ...(isExpendable(kind) ? ["delete"] : [])]),
  ),
];

/** What belongs to no namespace: which cards there are. Without it sizes are compared with nothing (`SizeUnknown`), and all else works. */
export const WIDE_RIGHTS: readonly Rule[] = [
  rule(RESOURCES.nodes, ["list", "watch"]),
  rule(RESOURCES.resourceSlices, ["list", "watch"]),
];

function rule({ apiVersion, plural }: Resource, verbs: string[]): Rule {
  const [group = "", version] = apiVersion.split("/");
  return { apiGroups: [version === undefined ? "" : group], resources: [plural], verbs };
}

import type { LLMPool, LLMPoolStatus } from "../api/llmpool.ts";
import { LLMPOOLS } from "../cluster/llmpools.ts";
import { isNotFound } from "../kube/errors.ts";
import type { KubeObject } from "../kube/object.ts";
import type { ClusterAccess } from "./cluster-access.ts";
import { format } from "./output.ts";
import { type Column, type ListOutput, printList } from "./table.ts";

export type StoredPool = KubeObject & Pick<LLMPool, "spec" | "status">;
type InstanceStatus = NonNullable<LLMPoolStatus["instanceStatuses"]>[number];

/** The pool of this name; without one, the only pool of the namespace. Rejects with a text for the user. */
export async function findPool(
  { client, namespace }: ClusterAccess,
  name: string | undefined,
  signal: AbortSignal,
): Promise<StoredPool> {
  try {
    if (name !== undefined) return await client.get<StoredPool>(LLMPOOLS, { namespace, name }, signal);
    const { items } = await client.list<StoredPool>(LLMPOOLS, { namespace }, signal);
    const [only] = items;
    if (only && items.length === 1) return only;
    const names = items.map(({ metadata }) => metadata.name).join(", ");
    throw new Error(
      names === ""
        ? `there is no LLMPool in namespace ${namespace}; another one is named by -n`
        : `namespace ${namespace} has several pools: name one of ${names}`,
    );
  } catch (error) {
    if (!isNotFound(error)) throw error;
    throw new Error(
      error.details.name === name && name !== undefined
        ? `there is no LLMPool ${name} in namespace ${namespace}`
        : "the cluster does not know the kind LLMPool: install the chart, or see llmpool doctor --cluster",
      { cause: error },
    );
  }
}

/** What its status says: in one line, what is wrong if anything is, and a row for each instance. */
export function showPool(pool: StoredPool, output: ListOutput | undefined): string {
  const { status = {} } = pool;
  const rows = status.instanceStatuses ?? [];
  if (output === "json" || output === "yaml") return format(pool, output);
  const columns = COLUMNS(status);
  if (output === "name") return printList(rows, columns, output, ({ id }) => id);
  const lines = [title(pool), ...troubles(pool)];
  return `${lines.map((line) => `${line}\n`).join("")}${printList(rows, columns, output, ({ id }) => id)}`;
}

function title({ metadata, spec, status = {} }: StoredPool): string {
  const all = status.instanceStatuses ?? [];
  const ready = all.filter(({ state }) => state === "Ready").length;
  const where = status.url === undefined ? "" : ` at ${status.url}`;
  const count = all.length > 0 ? `${ready} of ${all.length}` : `0 of ${spec.instances}`;
  return `pool ${metadata.namespace}/${metadata.name}${where}: ${count} instances ready`;
}

/** The conditions that are not as they should be; the first of equal words speaks for the others. */
function troubles({ metadata, status = {} }: StoredPool): string[] {
  if ((status.observedGeneration ?? -1) < (metadata.generation ?? 1))
    return ["no operator has looked at its newest spec yet: llmpool doctor --cluster tells whether one runs"];
  const bad = (status.conditions ?? []).filter(
    ({ type, status, reason }) => (isJudgement(type) && status !== "True") || reason === "StoreEphemeral",
  );
  return bad
    .filter(({ message }, at) => bad.findIndex((other) => other.message === message) === at)
    .map(({ type, reason, message }) => `${type}: ${reason}: ${message}`);
}

/** Those that are True when all is well. */
const isJudgement = (type: string) => !["Progressing", "Reconciling", "Stalled"].includes(type);

const COLUMNS = ({ roles = [] }: LLMPoolStatus): Column<InstanceStatus>[] => [
  { title: "INSTANCE", cell: ({ id }) => id },
  { title: "STATE", cell: ({ state }) => state },
  {
    title: "ROLES",
    cell: ({ id }) =>
      roles
        .filter(({ instances }) => instances?.includes(id))
        .map(({ name }) => name)
        .join(","),
  },
  { title: "POD", cell: ({ pod }) => pod ?? "" },
  { title: "NODE", cell: ({ node }) => node ?? "", wide: true },
  { title: "DEVICE", cell: ({ device }) => device ?? "" },
  { title: "TOK/S", cell: ({ tokensPerSecond }) => tokensPerSecond?.toFixed(0) ?? "" },
  { title: "RESTARTS", cell: ({ restarts = 0 }) => String(restarts) },
  { title: "MESSAGE", cell: ({ message }) => message ?? "" },
];

import { readFile, stat } from "node:fs/promises";

/** Something that someone asked the API server for. */
export interface Call {
  user: string;
  userAgent: string;
  verb: string;
  /** Plural, with its group and subresource: `pods`, `leases.coordination.k8s.io`, `deployments.apps/status`. */
  resource: string;
  namespace: string | undefined;
  name: string | undefined;
  /** The HTTP status it got. */
  code: number;
  /** When it reached the API server, in milliseconds of its wall clock. */
  at: number;
}

interface AuditEvent {
  verb: string;
  user: { username: string };
  userAgent?: string;
  /** RFC 3339, with microseconds. */
  requestReceivedTimestamp: string;
  objectRef?: { resource?: string; apiGroup?: string; subresource?: string; namespace?: string; name?: string };
  responseStatus?: { code?: number };
}

const READS = ["get", "list", "watch"];

/** Every write from now on; see `recordCalls`. */
export async function recordWrites(auditLog: string): Promise<() => Promise<Call[]>> {
  const calls = await recordCalls(auditLog);
  return async () => (await calls()).filter(({ verb }) => !READS.includes(verb));
}

/**
 * From now on, every write and what service accounts read. What it returns gives all calls until then, a watch when it began and once more when it
 * ended. The API server writes its log before it answers.
 */
export async function recordCalls(auditLog: string): Promise<() => Promise<Call[]>> {
  const from = (await stat(auditLog)).size;
  return async () => {
    const lines = (await readFile(auditLog)).subarray(from).toString("utf8").trim().split("\n");
    return lines.filter((line) => line !== "").map((line) => toCall(JSON.parse(line) as AuditEvent));
  };
}

function toCall({ verb, user, userAgent = "", objectRef = {}, responseStatus, ...event }: AuditEvent): Call {
  const { resource = "", apiGroup, subresource, namespace, name } = objectRef;
  return {
    user: user.username,
    userAgent,
    verb,
    resource: `${resource}${apiGroup ? `.${apiGroup}` : ""}${subresource ? `/${subresource}` : ""}`,
    namespace,
    name,
    code: responseStatus?.code ?? 0,
    at: millisecondsOf(event.requestReceivedTimestamp),
  };
}

/** `Date` knows no microseconds. */
function millisecondsOf(timestamp: string): number {
  const micros = Number(/[.](\d{6})/.exec(timestamp)?.[1] ?? 0);
  return Math.floor(Date.parse(timestamp) / 1000) * 1000 + micros / 1000;
}

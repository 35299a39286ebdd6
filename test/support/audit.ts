import { readFile, stat } from "node:fs/promises";

/** One change that someone asked the API server for. */
export interface Write {
  user: string;
  userAgent: string;
  verb: string;
  /** Plural, with its group and subresource: `pods`, `leases.coordination.k8s.io`, `deployments.apps/status`. */
  resource: string;
  namespace: string | undefined;
  name: string | undefined;
  /** The HTTP status it got. */
  code: number;
}

interface AuditEvent {
  verb: string;
  user: { username: string };
  userAgent?: string;
  objectRef?: { resource?: string; apiGroup?: string; subresource?: string; namespace?: string; name?: string };
  responseStatus?: { code?: number };
}

/** From now on; each call gives all writes until then. The API server writes its log before it answers. */
export async function recordWrites(auditLog: string): Promise<() => Promise<Write[]>> {
  const from = (await stat(auditLog)).size;
  return async () => {
    const lines = (await readFile(auditLog)).subarray(from).toString("utf8").trim().split("\n");
    return lines.filter((line) => line !== "").map((line) => toWrite(JSON.parse(line) as AuditEvent));
  };
}

function toWrite({ verb, user, userAgent = "", objectRef = {}, responseStatus }: AuditEvent): Write {
  const { resource = "", apiGroup, subresource, namespace, name } = objectRef;
  return {
    user: user.username,
    userAgent,
    verb,
    resource: `${resource}${apiGroup ? `.${apiGroup}` : ""}${subresource ? `/${subresource}` : ""}`,
    namespace,
    name,
    code: responseStatus?.code ?? 0,
  };
}

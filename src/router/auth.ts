import { createHash } from "node:crypto";
import { z } from "zod";
import type { PoolPlan } from "../core/plan/types.ts";
import { LLMPoolError } from "../lib/errors.ts";
import type { Identity } from "./identify.ts";

export const SCOPES = ["inference", "read", "admin"] as const;
export type Scope = (typeof SCOPES)[number];

/** Who calls. `tenant` is the key's name in its Secret; "" when the pool asks for no key. */
export interface Caller {
  tenant: string;
  scopes: ReadonlySet<Scope>;
  /** The key's own budget. */
  budget?: { tokens: number; windowSeconds: number };
  /** Roles the key may use; undefined: all. */
  roles?: readonly string[];
}

/** One entry of the keys Secret: the value under a caller's name, as JSON. The key itself is never stored, only its SHA-256. */
const KeyEntry = z.strictObject({
  sha256: z.string().regex(/^[0-9a-f]{64}$/, "must be 64 lowercase hex digits: printf %s KEY | sha256sum"),
  scopes: z.array(z.enum(SCOPES)).min(1).default(["inference", "read"]),
  tokens: z.int().min(0).default(0),
  windowSeconds: z.int().min(1).max(31_536_000).default(86_400),
  roles: z.array(z.string()).optional(),
});

export type Secrets = Readonly<Record<string, Readonly<Record<string, Buffer>>>>;
export type Authenticate = (authorization: string | undefined) => Caller;

const EVERYBODY: Caller = { tenant: "", scopes: new Set(SCOPES) };

/** Makes the check from the pool's settings. Throws one error that lists every bad entry by name; keys and hashes are never in a message. */
export function makeAuthenticate(auth: PoolPlan["router"]["auth"], secrets: Secrets): Authenticate {
  if (auth.mode === "None") return () => EVERYBODY;
  const callers = parseKeys(auth.secretName, secrets[auth.secretName]);
  return (authorization) => {
    const key = authorization?.match(/^Bearer +(\S+)$/i)?.[1];
    // Looked up by the hash of a secret: how long a miss takes says nothing about the keys.
    const caller = key === undefined ? undefined : callers.get(createHash("sha256").update(key).digest("hex"));
    if (!caller) {
      throw new LLMPoolError("unauthorized", "a valid API key is needed: send it as `Authorization: Bearer KEY`");
    }
    return caller;
  };
}

/** Throws `forbidden` unless the caller has the scope; `admin` has all. */
export function requireScope(caller: Caller, scope: Scope): void {
  if (caller.scopes.has(scope) || caller.scopes.has("admin")) return;
  throw new LLMPoolError("forbidden", `this API key lacks the scope "${scope}"`);
}

/**
 * Throws `forbidden` unless the caller may use the role, and the instance where one is named; a caller with a list of roles has to name one of
 * them, and gets no other's instance under its name.
 */
export function requireRole({ roles }: Caller, { role, instance }: Pick<Identity, "role" | "instance">): void {
  if (!roles) return;
  if (!role || !roles.includes(role.name))
    throw new LLMPoolError("forbidden", `this API key may not use this role; it may use ${roles.join(", ")}`);
  if (!instance || role.instances.includes(instance.id)) return;
  const own = role.instances.join(", ");
  throw new LLMPoolError("forbidden", `this API key may not use instance ${instance.id}; role ${role.name} has ${own}`);
}

function parseKeys(secretName: string, secret: Readonly<Record<string, Buffer>> | undefined): Map<string, Caller> {
  if (!secret) {
    throw new Error(
      `router.auth.secretName: there is no Secret "${secretName}"; put one into the file or give --secret ${secretName}=DIR`,
    );
  }
  const callers = new Map<string, Caller>();
  const problems: string[] = [];
  for (const [name, bytes] of Object.entries(secret)) {
    const entry = parseEntry(bytes);
    const same = typeof entry === "string" ? undefined : callers.get(entry.sha256)?.tenant;
    if (typeof entry === "string") problems.push(`Secret "${secretName}", entry "${name}": ${entry}`);
    else if (same !== undefined) problems.push(`Secret "${secretName}": "${same}" and "${name}" have the same key`);
    else callers.set(entry.sha256, callerOf(name, entry));
  }
  if (problems.length > 0) throw new Error(problems.join("\n"));
  return callers;
}

function callerOf(name: string, entry: z.infer<typeof KeyEntry>): Caller {
  const caller: Caller = { tenant: name, scopes: new Set(entry.scopes) };
  if (entry.tokens > 0) caller.budget = { tokens: entry.tokens, windowSeconds: entry.windowSeconds };
  if (entry.roles) caller.roles = entry.roles;
  return caller;
}

function parseEntry(bytes: Buffer): z.infer<typeof KeyEntry> | string {
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString());
  } catch {
    return 'must be JSON such as {"sha256": "…", "scopes": ["inference"], "tokens": 0}';
  }
  const parsed = KeyEntry.safeParse(json);
  return parsed.success ? parsed.data : parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; ");
}

import { hash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { InstancePlan, PoolPlan, RolePlan } from "../core/plan/types.ts";
import { LLMPoolError } from "../lib/errors.ts";

/** Who asks, for what, and where it should run: everything that routing reads from a request. */
export interface Identity {
  role?: RolePlan;
  /** An agent id that names no role of this pool: placed by its hash. */
  agent?: string;
  /** An instance asked for by name. */
  instance?: InstancePlan;
  /** A served model's name; restricts placement to the variants that serve it. */
  model?: string;
  /** It is not the one that the default variant serves. */
  isOtherModel?: boolean;
  sessionId?: string;
  episodeId?: string;
  /** The header or field that named it: that of the session where its id did. */
  episodeFrom?: string;
  /** What the caller asked for, in milliseconds. */
  timeoutMs?: number;
  clampBudget: boolean;
  /** `prompt_cache_key` or `user`: biases placement of a new session, nothing else. */
  hint?: string;
}

/** The fields of an OpenAI body that routing looks at. */
export interface RoutingFields {
  model?: unknown;
  metadata?: unknown;
  user?: unknown;
  prompt_cache_key?: unknown;
}

/** Where `/v1/generate` carries the same, already checked for shape. */
export interface GenerateFields {
  role?: string | undefined;
  agent_id?: string | undefined;
  instance_id?: string | undefined;
  session_id?: string | undefined;
  episode_id?: string | undefined;
  timeout_s?: number | undefined;
}

const ID = /^[A-Za-z0-9._:-]{1,128}$/;
const OURS = "x-llmpool-";
const OUR_HEADERS: ReadonlySet<string> = new Set(["role", "instance", "budget"].map((name) => OURS + name));
/** What callers write who know our answers. */
const MEANT: Record<string, string> = { "x-llmpool-session": "x-session-id", "x-llmpool-episode": "x-episode-id" };
const SESSION_HEADERS = ["x-session-id", "x-claude-code-session-id", "x-session-affinity", "session-id"] as const;

/** Reads headers, then body: headers win. Throws `invalid_request` or `not_found` that names the header or field, and what exists. */
export function identify(
  plan: PoolPlan,
  headers: IncomingHttpHeaders,
  body: RoutingFields,
  generate: GenerateFields = {},
): Identity {
  mustKnow(headers);
  const metadata = metadataOf(body);
  const identity: Identity = { clampBudget: clampOf(headers) };

  const session =
    firstHeader(headers, SESSION_HEADERS) ??
    field("session_id", generate.session_id) ??
    field("metadata.session_id", metadata.session_id);
  if (session) identity.sessionId = checkId(session);
  const instance =
    firstHeader(headers, ["x-llmpool-instance"]) ??
    field("instance_id", generate.instance_id) ??
    field("metadata.instance_id", metadata.instance_id);
  if (instance) identity.instance = instanceOf(plan, instance);
  whoAsks(plan, headers, body, metadata, generate, identity);

  const episode =
    firstHeader(headers, ["x-episode-id"]) ??
    field("episode_id", generate.episode_id) ??
    field("metadata.episode_id", metadata.episode_id);
  if (episode) {
    identity.episodeId = checkId(episode);
    identity.episodeFrom = episode.name;
  } else if (session) {
    const fromSession = episodeOfSession(plan, session.value);
    if (fromSession !== undefined) {
      identity.episodeId = fromSession;
      identity.episodeFrom = session.name;
    }
  }

  const timeout =
    firstHeader(headers, ["x-request-timeout", "x-stainless-timeout"]) ??
    field("timeout_s", generate.timeout_s?.toString()) ??
    field("metadata.timeout_s", metadata.timeout_s);
  if (timeout) identity.timeoutMs = secondsOf(timeout);
  const hint = body.prompt_cache_key ?? body.user;
  if (typeof hint === "string" && hint !== "") identity.hint = hint;
  return identity;
}

/** Keys of sessions seen lately: a hash costs more than a look. */
const sessionKeys = new Map<string, string>();
const KEYS_KEPT = 10_000;

/** What a session's cache and binding are called everywhere: one caller's, one role's, one id's. */
export function sessionKey(tenant: string, role: string, id: string): string {
  // Length-prefixed, so that no choice of names makes two sessions one.
  const text = `${tenant.length}:${tenant}${role.length}:${role}${id}`;
  const known = sessionKeys.get(text);
  if (known !== undefined) return known;
  if (sessionKeys.size >= KEYS_KEPT) sessionKeys.clear();
  const key = hash("sha256", text, "base64url");
  sessionKeys.set(text, key);
  return key;
}

/**
 * The name under which a binding lists who owns it: the role, else the agent, else the instance, else the model. Without any of them it is the
 * default variant's, which may be named or not.
 */
export function ownerOf(identity: Identity): string {
  if (identity.role) return identity.role.name;
  if (identity.agent !== undefined) return `agent:${identity.agent}`;
  if (identity.instance) return `instance:${identity.instance.id}`;
  return identity.isOtherModel ? `model:${identity.model}` : "";
}

export function rolesOf(plan: PoolPlan): string {
  return plan.roles.map((r) => r.name).join(", ");
}

/** `planner`, `Planner`, `planner:latest`, `apex/planner`: the role, when the pool has it. */
export function findRole(plan: PoolPlan, text: string): RolePlan | undefined {
  let name = text;
  const slash = name.indexOf("/");
  if (slash >= 0) {
    if (name.slice(0, slash).toLowerCase() !== plan.pool) return undefined;
    name = name.slice(slash + 1);
  }
  const colon = name.indexOf(":");
  if (colon >= 0) name = name.slice(0, colon);
  return roleNamed(plan, name);
}

function roleNamed(plan: PoolPlan, name: string): RolePlan | undefined {
  const wanted = name.toLowerCase();
  return plan.roles.find((r) => r.name.toLowerCase() === wanted);
}

function whoAsks(
  plan: PoolPlan,
  headers: IncomingHttpHeaders,
  body: RoutingFields,
  metadata: Record<string, unknown>,
  generate: GenerateFields,
  identity: Identity,
): void {
  const asked = firstHeader(headers, ["x-llmpool-role"]) ?? field("role", generate.role);
  if (asked) {
    const role = findRole(plan, asked.value);
    if (!role) throw bad(asked.name, `no role "${asked.value}" in this pool; its roles are ${rolesOf(plan)}`);
    identity.role = role;
    return;
  }
  const agent = firstHeader(headers, ["x-agent-id"]) ?? field("agent_id", generate.agent_id);
  if (agent) {
    // The whole id or none of it: `coder:3` is an agent like any other, and whoever knows the hash knows its place.
    const role = roleNamed(plan, agent.value);
    if (role) identity.role = role;
    else identity.agent = checkId(agent);
    return;
  }
  const inMetadata = typeof metadata.role === "string" ? findRole(plan, metadata.role) : undefined;
  if (inMetadata) {
    identity.role = inMetadata;
    return;
  }
  if (body.model === undefined || body.model === null) return;
  if (typeof body.model !== "string") throw bad("model", "model must be a string");
  const role = findRole(plan, body.model);
  if (role) {
    identity.role = role;
    return;
  }
  const model = body.model;
  if (!plan.variants.some((v) => v.modelName === model)) {
    const served = [...new Set(plan.variants.map((v) => v.modelName))].join(", ");
    throw new LLMPoolError(
      "not_found",
      `no model "${clip(model)}"; use a role (${rolesOf(plan)}) or a served model (${served})`,
      {
        param: "model",
      },
    );
  }
  identity.model = model;
  if (plan.variants.find(({ name }) => name === "default")?.modelName !== model) identity.isOtherModel = true;
}

/** A misspelt header would be a session without its cache, or a budget that is not kept. */
function mustKnow(headers: IncomingHttpHeaders): void {
  for (const name in headers) {
    if (!name.startsWith(OURS) || OUR_HEADERS.has(name)) continue;
    const instead = MEANT[name] ?? [...OUR_HEADERS].join(", ");
    throw bad(name, `${name} is no header of a request; use ${instead}`);
  }
}

function instanceOf(plan: PoolPlan, asked: Named): InstancePlan {
  for (const variant of plan.variants) {
    for (const instance of variant.instances) if (instance.id === asked.value) return instance;
  }
  const ids = plan.variants.flatMap((v) => v.instances.map((i) => i.id)).join(", ");
  throw bad(asked.name, `no instance "${clip(asked.value)}" in this pool; it has ${ids}`);
}

function episodeOfSession(plan: PoolPlan, sessionId: string): string | undefined {
  const colon = sessionId.lastIndexOf(":");
  if (colon <= 0) return undefined;
  const role = sessionId.slice(colon + 1);
  return plan.roles.some((r) => r.name === role) ? sessionId.slice(0, colon) : undefined;
}

interface Named {
  name: string;
  value: string;
}

function firstHeader(headers: IncomingHttpHeaders, names: readonly string[]): Named | undefined {
  for (const name of names) {
    const value = headers[name];
    if (typeof value === "string" && value !== "") return { name, value };
  }
  return undefined;
}

function field(name: string, value: unknown): Named | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw bad(name, `${name} must be a string`);
  return value === "" ? undefined : { name, value };
}

function metadataOf(body: RoutingFields): Record<string, unknown> {
  const { metadata } = body;
  if (metadata === undefined || metadata === null) return {};
  if (typeof metadata !== "object" || Array.isArray(metadata))
    throw bad("metadata", "metadata must be an object of strings");
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== "string") throw bad(`metadata.${clip(key)}`, `metadata.${clip(key)} must be a string`);
  }
  return metadata as Record<string, unknown>;
}

function checkId(id: Named): string {
  if (!ID.test(id.value)) {
    throw bad(id.name, `${id.name} must be 1 to 128 characters out of letters, digits and . _ : -`);
  }
  return id.value;
}

function secondsOf(asked: Named): number {
  const seconds = Number(asked.value);
  if (!Number.isFinite(seconds) || seconds <= 0) {
    throw bad(asked.name, `${asked.name} must be a number of seconds above 0, not "${clip(asked.value)}"`);
  }
  return seconds * 1000;
}

function clampOf(headers: IncomingHttpHeaders): boolean {
  const value = headers["x-llmpool-budget"];
  if (value === undefined) return false;
  if (value === "clamp") return true;
  throw bad("x-llmpool-budget", "x-llmpool-budget takes only the value clamp");
}

function bad(param: string, message: string): LLMPoolError {
  return new LLMPoolError("invalid_request", message, { param });
}

/** Callers' text in messages is cut and has no control characters: it ends up in logs and terminals. */
function clip(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is replaced
  return text.slice(0, 100).replace(/[\u0000-\u001f\u007f]/g, "?");
}

import { createHash } from "node:crypto";
import type { InstanceObject } from "../api/http.ts";
import type { Endpoint } from "../core/endpoint.ts";
import { hashAgent } from "../core/mapping.ts";
import type { InstancePlan } from "../core/plan/types.ts";
import type { InstanceQueue } from "../core/queue.ts";
import type { Speed } from "../core/speed.ts";
import type { Identity } from "./identify.ts";

/** An instance of the plan, and what stands behind it now. */
export interface Place {
  plan: InstancePlan;
  modelName: string;
  roles: string[];
  /** Who waits here, for the instance or for a turn of the same session; what it starts is at the instance, and may wait there. */
  queue: InstanceQueue;
  /** How many wait there. */
  waitingThere: number;
  speed: Speed;
  sessions: number;
  /** Undefined: nothing has that id yet. */
  endpoint: Endpoint | undefined;
  /** The endpoint that refused a connection a moment ago. */
  suspect: string | undefined;
  /** On the clock's scale: until when it is left alone. */
  suspectUntil: number;
  /** Since when it starts, if it does, */
  startsSince: number | undefined;
  /** and how long that took the last time, in milliseconds. */
  startMs: number | undefined;
  /** On the clock's scale; undefined while it takes traffic. */
  downSince: number | undefined;
  cancelMove: (() => void) | undefined;
}

/** Where a request may go, whatever state that is in: its instance, its role's, its agent's, or those that serve its model. */
export function candidates(places: readonly Place[], { instance, role, agent, model }: Identity): Place[] {
  const byId = (ids: readonly string[]) => places.filter((p) => ids.includes(p.plan.id));
  if (instance) return byId([instance.id]);
  if (role) return byId(role.instances);
  if (model !== undefined && agent === undefined) return places.filter((p) => p.modelName === model);
  const own = places.filter((p) => p.plan.variant === "default").sort((a, b) => a.plan.index - b.plan.index);
  if (agent === undefined || own.length === 0) return own;
  return own.slice(hashAgent(agent, own.length)).slice(0, 1);
}

/** Fewest requests, then fewest sessions; between equals the hint's favourite, else the first. */
export function leastLoaded(places: readonly Place[], hint: string | undefined): Place | undefined {
  let best: Place | undefined;
  for (const place of places) if (!best || compare(place, best, hint) < 0) best = place;
  return best;
}

function compare(a: Place, b: Place, hint: string | undefined): number {
  const load = a.queue.running + a.queue.waiting - (b.queue.running + b.queue.waiting);
  if (load !== 0) return load;
  if (hint !== undefined) return score(hint, b.plan.id).compare(score(hint, a.plan.id));
  return a.sessions - b.sessions;
}

/** Rendezvous hashing: the same hint prefers the same instance, whichever others there are. */
function score(hint: string, id: string): Buffer {
  return createHash("sha256").update(`${id}\n${hint}`).digest();
}

/** The row of `GET /v1/instances`. */
export function instanceObject(place: Place): InstanceObject {
  const { plan, roles, queue, waitingThere, speed, sessions, endpoint } = place;
  return {
    object: "instance",
    id: plan.id,
    variant: plan.variant,
    state: endpoint?.state ?? "Pending",
    roles,
    queued: queue.waiting + waitingThere,
    running: queue.running - waitingThere,
    sessions,
    // What callers got; before the first of them, what the instance says of itself.
    tokens_per_second: speed.decodeTokensPerSecond || (endpoint?.tokensPerSecond ?? null),
    restarts: endpoint?.restarts ?? 0,
    device: endpoint?.device ?? null,
    message: endpoint?.message ?? null,
    ...(endpoint?.pid !== undefined && { pid: endpoint.pid }),
    ...(endpoint?.pod !== undefined && { pod: endpoint.pod }),
  };
}

import type { EndReason } from "../../api/http.ts";
import type { Binding, BudgetView, Episode, EpisodeEvent, EpisodeSettings, Reservation } from "../../core/store.ts";

/** What the scripts answer, and what it means. Lua writes an empty list as `{}`. */

export type LuaList<T> = T[] | Record<string, never>;

export interface EpisodeReply {
  tenant: string;
  id: string;
  /** Tells two episodes of one id apart. */
  n: number;
  /** Of its last event. */
  seq: number;
  /** JSON, as it was given. */
  settings: string;
  metadata: string;
  startedAt: number;
  remainingMs: number;
  limitMs: number;
  reason?: EndReason;
  extensions: number;
  spent: number;
  reserved: number;
  progress: string;
  progressAt: number;
}

export interface BudgetReply {
  scope: BudgetView["scope"];
  id: string;
  limit: number;
  spent: number;
  reserved: number;
  /** Length of a window; 0: no windows. */
  seconds: number;
  window: number;
  /** The store's wall clock. */
  wall: number;
}

/** A reservation as the store keeps it: told back after a failover to a copy that has not got it. All but `tokens` is the store's own affair. */
export type Hold = Record<string, string | number>;

export interface AdmitReply {
  ended?: EpisodeReply;
  denied?: BudgetReply;
  reserved?: number;
  instance?: string;
  budgets?: LuaList<BudgetReply>;
  episode?: EpisodeReply;
  binding?: Binding;
  hold?: Hold;
}

export interface EventReply {
  /** Counts the events of all episodes; a gap means that some were missed. */
  number: number;
  /** `by`: the router whose step it was. */
  event: EpisodeEvent & { by: string };
  episode: EpisodeReply;
}

/** Of one episode. */
export interface EventsReply {
  list: LuaList<EventReply["event"]>;
  episode?: EpisodeReply;
}

export interface ReservationReply {
  id: string;
  tenant: string;
  instance: string;
  tokens: number;
  /** tenant/id of its episode. */
  who?: string;
  boot?: string;
  ageMs: number;
}

export function listOf<T>(list: LuaList<T> | undefined): T[] {
  return Array.isArray(list) ? list : [];
}

export function episodeOf(reply: EpisodeReply): Episode {
  const { tenant, id, settings, metadata, startedAt, remainingMs, limitMs, reason, extensions, spent, reserved } =
    reply;
  return {
    tenant,
    id,
    state: reason === undefined ? "active" : "ended",
    ...(reason !== undefined && { endReason: reason }),
    startedAt,
    remainingMs,
    limitMs,
    extensions,
    tokensUsed: spent,
    tokensReserved: reserved,
    lastProgress: { event: reply.progress, at: reply.progressAt },
    settings: JSON.parse(settings) as EpisodeSettings,
    metadata: JSON.parse(metadata) as Record<string, string>,
  };
}

export function budgetOf({ scope, id, limit, spent, reserved, seconds, window, wall }: BudgetReply): BudgetView {
  const resetSeconds = seconds === 0 ? undefined : (window + 1) * seconds - wall / 1000;
  return { scope, id, limit, spent, reserved, ...(resetSeconds !== undefined && { resetSeconds }) };
}

export function reservationOf({ id, tenant, instance, tokens, who, boot, ageMs }: ReservationReply): Reservation {
  const episodeId = who?.slice(tenant.length + 1);
  return {
    requestId: id,
    tenant,
    instance,
    tokens,
    ...(episodeId !== undefined && { episodeId }),
    ...(boot !== undefined && { boot }),
    ageMs,
  };
}

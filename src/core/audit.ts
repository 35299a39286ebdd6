import type { AuditObject, EndReason } from "../api/http.ts";
import type { AdmitRequest, BudgetView, EpisodeEvent } from "./store.ts";

/**
 * One line of an episode's journal: what the store decided, written in the step that decided it and never changed after, but that a run of
 * denials by one budget is one line with a count. It goes with the episode, `retainSeconds` after its end.
 */
export interface AuditEntry {
  /** Ascending in the order of the decisions. */
  seq: number;
  /** Unix milliseconds. */
  at: number;
  kind: AuditKind;
  data: AuditData;
}

export type AuditKind = AuditObject["event"];
export type AuditData = Record<string, string | number | boolean>;

/** Entries kept per episode: the latest. */
export const AUDIT_KEPT = 10_000;
/** Entries of one answer of `StateStore.audit`. */
export const AUDIT_PAGE = 1_000;

/** How the journal calls an event of an episode; undefined for progress, which is none of its matters. */
export function auditKindOf(kind: EpisodeEvent["kind"], data: EpisodeEvent["data"]): AuditKind | undefined {
  if (kind === "started") return "start";
  if (kind === "extended") return "extend";
  if (kind !== "ended") return undefined;
  const reason = data.reason as EndReason;
  return reason === "finished" || reason === "cancelled" ? "end" : "expire";
}

/** What a denial says; `count` of them in a row, the numbers of the last one. */
export function denialOf({ scope, id, limit, spent, reserved }: BudgetView, asked: AdmitRequest, count: number) {
  const role = asked.role === undefined ? {} : { role: asked.role };
  return { scope, id, limit, spent, reserved, asked: asked.worstCase, ...role, count };
}

import type { AuditObject, EpisodeEventObject, EpisodeObject, SessionObject } from "../api/http.ts";
import type { AuditEntry } from "../core/audit.ts";
import type { Binding, Episode, EpisodeEvent } from "../core/store.ts";

/** Store records as the bodies that callers see. `wallNow` is Unix time in milliseconds. */

export function episodeObject(episode: Episode, sessions: string[], wallNow: number): EpisodeObject {
  const { settings } = episode;
  return {
    object: "episode",
    id: episode.id,
    state: episode.state,
    end_reason: episode.endReason ?? null,
    started_at: instant(episode.startedAt),
    deadline: instant(deadlineOf(episode, wallNow)),
    time_remaining_s: seconds(episode.remainingMs),
    extensions: episode.extensions,
    tokens_used: episode.tokensUsed,
    tokens_reserved: episode.tokensReserved,
    budget_tokens: settings.budgetTokens === 0 ? null : settings.budgetTokens,
    last_progress: { event: episode.lastProgress.event, at: instant(episode.lastProgress.at) },
    sessions,
    metadata: episode.metadata,
  };
}

export function eventObject(episodeId: string, event: EpisodeEvent): EpisodeEventObject {
  return { event: event.kind, episode_id: episodeId, at: instant(event.at), ...event.data };
}

export function auditObject(episodeId: string, { seq, at, kind, data }: AuditEntry): AuditObject {
  return { event: kind, seq, episode_id: episodeId, at: instant(at), ...data };
}

/** The heartbeat: the same object as a log line and as an SSE event. */
export function heartbeatObject(episode: Episode, instances: string[]): Record<string, unknown> {
  return {
    event: "episode_heartbeat",
    episode_id: episode.id,
    tokens_used: episode.tokensUsed,
    last_progress: { event: episode.lastProgress.event, at: instant(episode.lastProgress.at) },
    time_remaining_s: seconds(episode.remainingMs),
    state: episode.state,
    instances,
  };
}

/** The log line of an end. */
export function endObject({ id, endReason, tokensUsed, extensions }: Episode): Record<string, unknown> {
  return { event: "episode_ended", episode_id: id, reason: endReason, tokens_used: tokensUsed, extensions };
}

export function sessionObject(binding: Binding): SessionObject {
  return {
    object: "session",
    id: binding.id,
    role: binding.role,
    instance_id: binding.instance,
    episode_id: binding.episodeId ?? null,
    last_used_at: instant(binding.lastUsedAt),
  };
}

/** While it runs, the time that is left decides, whatever became of the wall clock since its start; afterwards it stays what it was. */
function deadlineOf({ state, startedAt, limitMs, remainingMs }: Episode, wallNow: number): number {
  return Math.round(state === "ended" ? startedAt + limitMs : wallNow + remainingMs);
}

function instant(unixMs: number): string {
  return new Date(unixMs).toISOString();
}

function seconds(ms: number): number {
  return Math.round(ms) / 1000;
}

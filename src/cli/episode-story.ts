import type { AuditObject, EpisodeObject } from "../client/index.ts";
import { durationText } from "../dev/text.ts";

/** What became of an episode, a line for each decision, with its time since the start. */
export function episodeStory(episode: EpisodeObject, entries: readonly AuditObject[]): string {
  const roles = new Map<unknown, unknown>();
  const lines = entries.map((entry) => {
    if (entry.event === "admit") roles.set(entry.request, entry.role);
    const who = String(entry.role ?? roles.get(entry.request) ?? "a request");
    return [since(episode.started_at, entry.at), tellingOf(entry, who)] as const;
  });
  const width = Math.max(0, ...lines.map(([time]) => time.length));
  return [headOf(episode), ...lines.map(([time, text]) => `  ${time.padEnd(width)}  ${text}`), ""].join("\n");
}

function headOf({ id, state, end_reason, time_remaining_s, ...episode }: EpisodeObject): string {
  const { started_at, tokens_used, tokens_reserved, budget_tokens } = episode;
  const life = state === "active" ? `${durationText(time_remaining_s)} left` : `ended (${end_reason})`;
  const of = budget_tokens === null ? "" : ` of ${budget_tokens}`;
  return `episode ${id}, begun ${started_at}: ${life}; ${tokens_used}${of} tokens used, ${tokens_reserved} reserved`;
}

function tellingOf(entry: AuditObject, who: string): string {
  const { event, request, instance, session, reserved, used, count, from, to } = entry;
  // As much as tells the requests of several routers apart.
  const id = typeof request === "string" ? ` [${request.slice(0, 20)}]` : "";
  const ofSession = session === undefined ? "" : `, session ${session}`;
  switch (event) {
    case "start": {
      const budget = entry.budget_tokens === undefined ? "" : `, ${entry.budget_tokens} tokens`;
      return `began: ${duration(entry.timeout_s)}, with progress up to ${duration(entry.max_timeout_s)}${budget}`;
    }
    case "admit": {
      const again = entry.restored ? " again, after the store was restarted" : "";
      return `${who} admitted to instance ${instance}${ofSession}${again}: ${reserved} tokens reserved${id}`;
    }
    case "settle": {
      if (used === 0) return `${who} used nothing of ${reserved} tokens${id}`;
      const { prompt, cached, completion, recovered } = entry;
      const parts = prompt === undefined ? "" : ` (prompt ${prompt}, of it cached ${cached}, completion ${completion})`;
      const late = recovered ? ", asked from the instance after its router was gone" : "";
      return `${who} used ${used} of ${reserved} tokens${parts}${late}${id}`;
    }
    case "deny": {
      const { scope, limit, spent, asked } = entry;
      const times = count === 1 ? "" : ` ${count} times`;
      return `${who} denied${times}: ${asked} tokens asked; ${scope} budget ${entry.id}: ${limit}, spent ${spent}, reserved ${reserved}`;
    }
    case "rebind":
      return `${who} moved from instance ${from} to ${to}${ofSession}${id}`;
    case "extend":
      return `extended by ${entry.cause}, ${duration(entry.time_remaining_s)} left (${entry.extensions})`;
    case "expire":
    case "end":
      return `${event === "end" ? entry.reason : `expired (${entry.reason})`}: ${entry.tokens_used} tokens used`;
  }
}

const duration = (seconds: unknown): string => durationText(Number(seconds));

function since(start: string, at: string): string {
  const seconds = Math.max(0, (Date.parse(at) - Date.parse(start)) / 1000);
  return `+${seconds < 120 ? `${seconds.toFixed(1)}s` : durationText(seconds)}`;
}

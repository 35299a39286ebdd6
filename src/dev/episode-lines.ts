import { durationText, toWidth } from "./text.ts";

/** Episodes that are shown; of more only their number is. */
const MOST_SHOWN = 5;

/** What the router's lines say, as far as a person is shown it. */
interface Line {
  event: "episode_heartbeat" | "episode_ended";
  episode_id: string;
  tokens_used: number;
}
interface Heartbeat extends Line {
  last_progress: { event: string; at: string };
  time_remaining_s: number;
}

/** The active episodes, as their last heartbeats told them, for people. */
export class EpisodeLines {
  readonly #active = new Map<string, Heartbeat & { heardAt: number }>();

  /** Takes a line of the router; `now` is the clock's, in milliseconds. Returns the news in it: an end. */
  take(json: string, now: number): string | undefined {
    const line = JSON.parse(json) as Line;
    if (line.event === "episode_heartbeat") {
      this.#active.set(line.episode_id, { ...(line as Heartbeat), heardAt: now });
      return undefined;
    }
    this.#active.delete(line.episode_id);
    const { reason } = line as Line & { reason: string };
    return `episode ${line.episode_id} ended: ${reason}, ${line.tokens_used} tokens used`;
  }

  /** One line each, none wider than `width`. */
  show(now: number, wall: number, width: number): string[] {
    const all = [...this.#active.values()];
    const lines = all.slice(0, MOST_SHOWN).map(({ episode_id, tokens_used, last_progress, ...beat }) => {
      const left = durationText(beat.time_remaining_s - (now - beat.heardAt) / 1000);
      const ago = durationText((wall - Date.parse(last_progress.at)) / 1000);
      return `episode ${episode_id}: ${left} left, ${tokens_used} tokens used, ${last_progress.event} ${ago} ago`;
    });
    if (all.length > MOST_SHOWN) lines.push(`… ${all.length - MOST_SHOWN} more episodes`);
    return lines.map((line) => toWidth(line, width).trimEnd());
  }
}

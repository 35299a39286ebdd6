import type { EpisodeObject } from "../api/http.ts";
import { LLMPoolClientError } from "./errors.ts";

interface Known {
  ended?: string;
  budget: number | null;
  /** Tokens that the router last said were used. */
  said: number;
  /** Tokens of answers that this client got. */
  own: number;
}

const MAX_EPISODES = 10_000;

/**
 * What this client has learned of its episodes, so that a request which can only be denied is denied without any I/O. Both are certain:
 * an ended episode stays ended, and tokens used only grow (the greater of the router's count and this client's own is a lower bound).
 */
export class Knowledge {
  readonly #episodes = new Map<string, Known>();

  /** Throws when a request of this episode can only be denied. */
  check(episodeId: string | undefined): void {
    const known = episodeId === undefined ? undefined : this.#episodes.get(episodeId);
    if (!known) return;
    if (known.ended !== undefined) {
      const message = `episode ${episodeId} has ended: ${known.ended}; start another`;
      throw new LLMPoolClientError("episode_ended", message, { param: "episodeId", local: true });
    }
    const used = Math.max(known.said, known.own);
    if (known.budget !== null && used >= known.budget) {
      const message = `the budget of episode ${episodeId} is spent: ${used} of ${known.budget} tokens`;
      throw new LLMPoolClientError("budget_exhausted", message, { param: "episodeId", local: true });
    }
  }

  /** The router described the episode. One that runs after its end has begun anew: nothing of the one before counts. */
  saw(episode: EpisodeObject): void {
    if (episode.state === "active" && this.#episodes.get(episode.id)?.ended !== undefined) this.forget(episode.id);
    const known = this.#of(episode.id);
    known.budget = episode.budget_tokens;
    known.said = Math.max(known.said, episode.tokens_used);
    if (episode.state === "ended") known.ended = episode.end_reason ?? "ended";
  }

  /** An answer of the episode used this many tokens. */
  used(episodeId: string | undefined, tokens: number): void {
    if (episodeId !== undefined) this.#of(episodeId).own += tokens;
  }

  ended(episodeId: string, reason: string): void {
    this.#of(episodeId).ended = reason;
  }

  /**
   * A call of the episode failed. `episode_deadline_exceeded` is no end: it may tell of this call alone, which would come too late, or that the
   * router could not ask its store.
   */
  failed(episodeId: string | undefined, error: unknown): void {
    if (episodeId === undefined || !(error instanceof LLMPoolClientError) || error.local) return;
    if (error.code === "episode_ended") this.ended(episodeId, "the router said so");
  }

  /** The id begins anew: an ended one is free again after the pool's `retainSeconds`. */
  forget(episodeId: string | undefined): void {
    if (episodeId !== undefined) this.#episodes.delete(episodeId);
  }

  #of(id: string): Known {
    let known = this.#episodes.get(id);
    if (!known) {
      known = { budget: null, said: 0, own: 0 };
      this.#episodes.set(id, known);
      const oldest = this.#episodes.keys().next().value;
      if (this.#episodes.size > MAX_EPISODES && oldest !== undefined) this.#episodes.delete(oldest);
    }
    return known;
  }
}

import { EPISODES, headersOf } from "./clients.ts";
import type { EventStream } from "./history.ts";
import type { Random } from "./random.ts";
import { TENANTS, type World } from "./world.ts";

/** Follows the events of one episode at whichever router answers, and goes on at another one where the last connection broke. */
class Follower {
  readonly stream: { episode: string; told: { seq: number; event: string }[] };
  readonly done: Promise<void>;
  readonly #over: AbortController;

  constructor(world: World, tenant: string, id: string, random: Random) {
    this.stream = { episode: `${tenant}/${id}`, told: [] };
    this.#over = new AbortController();
    this.done = this.#follow(world, tenant, id, random);
  }

  stop(): void {
    this.#over.abort();
  }

  async #follow(world: World, tenant: string, id: string, random: Random): Promise<void> {
    const { told } = this.stream;
    while (!this.#over.signal.aborted && told.at(-1)?.event !== "ended") {
      // A connection that says nothing for so long is given up: what it stands for may have moved on.
      const signal = AbortSignal.any([this.#over.signal, AbortSignal.timeout(random.between(1_000, 4_000))]);
      try {
        const answer = await fetch(`${random.pick(world.routers).url}/v1/episodes/${id}/events`, {
          headers: { ...headersOf(tenant), "last-event-id": String(told.at(-1)?.seq ?? 0) },
          signal,
        });
        if (answer.ok && answer.body) await this.#read(answer.body);
        else await answer.text();
      } catch {
        // Tried again.
      }
      await new Promise((resolve) => setTimeout(resolve, random.between(50, 200)));
    }
  }

  async #read(body: ReadableStream<Uint8Array>): Promise<void> {
    let text = "";
    for await (const bytes of body.pipeThrough(new TextDecoderStream())) {
      text += bytes;
      const frames = text.split("\n\n");
      text = frames.pop() ?? "";
      for (const frame of frames) {
        const [, seq] = /^id: (\d+)$/m.exec(frame) ?? [];
        const [, event] = /^event: (\w+)$/m.exec(frame) ?? [];
        if (seq !== undefined && event !== undefined) this.stream.told.push({ seq: Number(seq), event });
      }
    }
  }
}

/** One follower for each episode that there may be. */
export class Followers implements Disposable {
  readonly #all: Follower[];

  constructor(world: World, random: Random) {
    this.#all = TENANTS.flatMap((tenant) => EPISODES.map((id) => new Follower(world, tenant, id, random.fork())));
  }

  /** What they were told; those of episodes that never began are left out. Resolves when each has heard the end, or after `ms`. */
  async streams(episodes: ReadonlySet<string>, ms: number): Promise<EventStream[]> {
    const waited = this.#all.filter(({ stream }) => episodes.has(stream.episode));
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    await Promise.race([Promise.all(waited.map(({ done }) => done)), late]);
    clearTimeout(timer);
    return waited.map(({ stream }) => stream);
  }

  [Symbol.dispose](): void {
    for (const follower of this.#all) follower.stop();
  }
}

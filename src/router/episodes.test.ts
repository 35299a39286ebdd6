import type { ServerResponse } from "node:http";
import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { poolPlan } from "../../test/support/pool.ts";
import { settle } from "../../test/support/settle.ts";
import type { Episode, StateStore } from "../core/store.ts";
import { EpisodeWatch, episodeSettings } from "./episodes.ts";

test("a router that takes over the heartbeats writes them at once, and from then on at the usual distance", async () => {
  const plan = poolPlan({});
  const episode: Episode = {
    ...{ tenant: "", id: "e", state: "active", startedAt: 0, remainingMs: 600_000, limitMs: 600_000, extensions: 0 },
    ...{ tokensUsed: 0, tokensReserved: 0, lastProgress: { event: "started", at: 0 } },
    ...{ settings: episodeSettings(plan), metadata: {} },
  };
  const clock = new FakeClock();
  const began = clock.now();
  const beats: number[] = [];
  let isOnDuty = false;
  const store: Pick<StateStore, "onEpisodeEvent" | "heartbeatDuty" | "episodesById"> = {
    onEpisodeEvent: () => () => {},
    heartbeatDuty: () => isOnDuty,
    episodesById: async () => [episode],
  };
  const watch = new EpisodeWatch({
    ...{
      store: store as StateStore,
      clock,
      plan: () => plan,
      instancesOf: () => [],
      onRan: () => {},
      onEnded: () => {},
    },
    writeLine: () => void beats.push((clock.now() - began) / 1000),
  });
  watch.adopt([episode]);
  const pass = async (seconds: number) => {
    for (let i = 0; i < seconds; i++) {
      clock.advance(1_000);
      await settle();
    }
  };
  await pass(35);
  expect(beats).toEqual([]);
  isOnDuty = true;
  await pass(50);
  expect(beats).toEqual([36, 56, 76]);
  watch.close();
});

test("a caller who has left before its stream begins is nobody to write to", async () => {
  const plan = poolPlan({});
  const store: Pick<StateStore, "onEpisodeEvent" | "episode"> = {
    onEpisodeEvent: () => () => {},
    episode: async () => ({ state: "active" }) as Episode,
  };
  const watch = new EpisodeWatch({
    ...{ store: store as StateStore, clock: new FakeClock(), plan: () => plan, writeLine: () => {} },
    ...{ instancesOf: () => [], onRan: () => {}, onEnded: () => {} },
  });
  // Anything more that is asked of it would throw.
  await watch.stream("", "e", 0, { destroyed: true } as ServerResponse);
  watch.close();
});

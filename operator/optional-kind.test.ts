import { expect, onTestFinished, test } from "vitest";
import { ApiError, ConnectionError } from "../src/kube/errors.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import { silentLogger } from "../src/lib/logger.ts";
import { FakeClock } from "../test/support/fake-clock.ts";
import { settle } from "../test/support/settle.ts";
import { followWhileThere, type OptionalKindDeps } from "./optional-kind.ts";

/** A cluster that answers as it is told, and caches that only note what is asked of them. */
function setup() {
  const clock = new FakeClock();
  const end = new AbortController();
  const seen = { followed: false, abandoned: 0, asked: 0 };
  const lists = { hang: false, begun: 0, ended: 0 };
  const cluster: { answer: object | Error } = { answer: new ApiError("GET", 404) };
  const deps = {
    client: {
      async request() {
        if (cluster.answer instanceof Error) throw cluster.answer;
        return cluster.answer;
      },
    },
    caches: {
      knows: () => seen.followed,
      follow: async (_: unknown, signal: AbortSignal) => {
        lists.begun++;
        if (lists.hang)
          await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))).finally(
            () => lists.ended++,
          );
        seen.followed = true;
      },
      unfollow: async () => Object.assign(seen, { followed: false }),
    },
    expectations: { abandon: () => void seen.abandoned++ },
    clock,
    log: silentLogger,
  } as unknown as OptionalKindDeps;
  const ended = followWhileThere(RESOURCES.podMonitors, deps, end.signal, () => seen.asked++);
  onTestFinished(async () => {
    end.abort(new Error("the test is over"));
    await ended;
  });
  const later = async (answer: object | Error) => {
    cluster.answer = answer;
    clock.advance(10_000);
    await settle();
  };
  return { clock, seen, lists, later };
}

const SERVED = { resources: [{ name: "servicemonitors" }, { name: "podmonitors" }] };

test("a kind is followed when the cluster gets it, through errors, and let go when the cluster loses it", async () => {
  const { seen, later } = setup();
  await settle();
  expect(seen).toMatchObject({ followed: false, asked: 1 });
  await later({ resources: [{ name: "servicemonitors" }] });
  expect(seen.followed).toBe(false);
  await later(SERVED);
  expect(seen.followed).toBe(true);
  await later(new ConnectionError("GET", new Error("refused")));
  expect(seen.followed).toBe(true);
  await later(new ApiError("GET", 404));
  expect(seen).toEqual({ followed: false, abandoned: 1, asked: 5 });
});

test("a kind that is there and cannot be listed is waited for by nobody, and tried again until it can", async () => {
  const { clock, seen, lists, later } = setup();
  await settle();
  lists.hang = true;
  await later(SERVED);
  expect({ ...seen, ...lists }).toMatchObject({ asked: 2, followed: false, begun: 1, ended: 0 });
  for (const ended of [1, 2]) {
    clock.advance(30_000);
    await settle();
    expect(lists).toMatchObject({ begun: ended, ended });
    await later(SERVED);
  }
  lists.hang = false;
  clock.advance(30_000);
  await settle();
  await later(SERVED);
  expect(seen.followed).toBe(true);
});

import { expect, test } from "vitest";
import { FakeClock } from "../../../test/support/fake-clock.ts";
import { Link } from "./link.ts";

test("Retry-After grows with the time that the store has been away, from 1 to 30 seconds", async () => {
  const clock = new FakeClock();
  // Nobody listens there.
  const url = "redis://127.0.0.1:1";
  const options = { url, tls: {}, allowVolatile: false, prefix: "p", router: "r", ttlMs: 1, time: undefined, clock };
  const link = new Link(options);
  const said: unknown[] = [];
  for (const seconds of [0, 1, 9, 20, 1_000]) {
    clock.advance(seconds * 1000);
    await expect(link.join(() => [])).rejects.toMatchObject({ code: "store_unavailable" });
    try {
      link.mustBeReady();
    } catch (error) {
      said.push((error as { retryAfterSeconds?: number }).retryAfterSeconds);
    }
  }
  expect(said).toEqual([1, 1, 5, 15, 30]);
});

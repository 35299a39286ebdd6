import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { type BreakerState, Breakers, FAILURES_TO_OPEN, OPEN_MS } from "./breaker.ts";

function setup(uids = ["a", "b"]) {
  const clock = new FakeClock();
  const changes: string[] = [];
  const breakers = new Breakers(clock, (uid, state) => changes.push(`${uid} ${state}`));
  breakers.follow(uids.map((uid) => ({ uid, variant: "default" })));
  const fail = (uid: string, times = FAILURES_TO_OPEN) => {
    for (let i = 0; i < times; i++) breakers.begin(uid).failed();
  };
  return { clock, breakers, changes, fail };
}

describe("a breaker", () => {
  test("opens after failures in a row, lets one probe through after a while, and closes when that succeeds", () => {
    const { clock, breakers, changes, fail } = setup();
    fail("a", FAILURES_TO_OPEN - 1);
    expect(breakers.allows("a")).toBe(true);
    fail("a", 1);
    expect(breakers.allows("a")).toBe(false);
    clock.advance(OPEN_MS - 1);
    expect(breakers.allows("a")).toBe(false);
    clock.advance(1);
    expect(breakers.allows("a")).toBe(true);
    const probe = breakers.begin("a");
    expect(breakers.allows("a")).toBe(false);
    probe.succeeded();
    expect(breakers.allows("a")).toBe(true);
    expect(changes).toEqual(["a open", "a half-open", "a closed"]);
    fail("a", FAILURES_TO_OPEN - 1);
    expect(breakers.state("a")).toBe("closed");
  });

  test("opens again for the full time when the probe fails", () => {
    const { clock, breakers, fail } = setup();
    fail("a");
    clock.advance(OPEN_MS);
    breakers.begin("a").failed();
    clock.advance(OPEN_MS - 1);
    expect(breakers.state("a")).toBe("open");
    clock.advance(1);
    expect(breakers.state("a")).toBe("half-open");
  });

  test("lets the next probe through when one ends without saying anything", () => {
    const { clock, breakers, fail, changes } = setup();
    fail("a");
    clock.advance(OPEN_MS);
    breakers.begin("a").abandoned();
    expect(breakers.allows("a")).toBe(true);
    expect(changes).toEqual(["a open", "a half-open", "a half-open"]);
  });

  test("counts failures in a row only, and each attempt once", () => {
    const { breakers, fail } = setup();
    for (let i = 0; i < 10; i++) {
      fail("a", FAILURES_TO_OPEN - 1);
      breakers.begin("a").succeeded();
    }
    const attempt = breakers.begin("a");
    for (let i = 0; i < 10; i++) attempt.failed();
    breakers.begin("a").abandoned();
    expect(breakers.state("a")).toBe("closed");
  });

  test("learns nothing from requests that were sent before it opened", () => {
    const { clock, breakers, fail } = setup();
    const early = [breakers.begin("a"), breakers.begin("a")];
    fail("a");
    early[0]?.succeeded();
    expect(breakers.state("a")).toBe("open");
    clock.advance(OPEN_MS);
    early[1]?.failed();
    expect(breakers.state("a")).toBe("half-open");
  });

  test("begins closed for a new process of the same instance", () => {
    const { breakers, fail } = setup();
    fail("a");
    const late = breakers.begin("b");
    breakers.follow([
      { uid: "a2", variant: "default" },
      { uid: "b2", variant: "default" },
    ]);
    late.failed();
    expect([breakers.state("a"), breakers.state("a2"), breakers.state("b2")]).toEqual(["closed", "closed", "closed"]);
  });
});

describe("never all endpoints of a variant", () => {
  test("the last closed one is not opened until another is closed again", () => {
    const { clock, breakers, fail } = setup();
    fail("a");
    fail("b", 50);
    expect(breakers.allows("b")).toBe(true);
    clock.advance(OPEN_MS);
    breakers.begin("a").succeeded();
    fail("b", 1);
    expect(breakers.allows("b")).toBe(false);
  });

  test("when the closed ones go away, the open ones are closed", () => {
    const { breakers, fail } = setup(["a", "b", "c"]);
    fail("a");
    fail("b");
    breakers.follow(["a", "b"].map((uid) => ({ uid, variant: "default" })));
    expect(breakers.allows("a") || breakers.allows("b")).toBe(true);
  });

  test("holds whatever happens, and every open breaker gets its probe", () => {
    const uids = ["a0", "a1", "b0", "b1", "b2"];
    const op = fc.record({
      op: fc.constantFrom(
        "begin" as const,
        "failed" as const,
        "failed" as const,
        "succeeded" as const,
        "abandoned" as const,
        "wait" as const,
        "follow" as const,
      ),
      pick: fc.nat(),
      some: fc.subarray(uids),
    });
    fc.assert(
      fc.property(fc.array(op, { maxLength: 150 }), (ops) => {
        const clock = new FakeClock();
        const seen = new Map<string, BreakerState>();
        const breakers = new Breakers(clock, (uid, state) => seen.set(uid, state));
        let live = uids;
        const variantOf = (uid: string) => uid.slice(0, 1);
        const follow = () => breakers.follow(live.map((uid) => ({ uid, variant: variantOf(uid) })));
        follow();
        let attempts: { uid: string; attempt: ReturnType<Breakers["begin"]> }[] = [];
        for (const o of ops) {
          const allowed = live.filter((uid) => breakers.allows(uid));
          const uid = allowed[o.pick % Math.max(1, allowed.length)];
          if (o.op === "begin" && uid) attempts.push({ uid, attempt: breakers.begin(uid) });
          else if (o.op === "wait") clock.advance(OPEN_MS / 2);
          else if (o.op === "follow") {
            live = o.some;
            follow();
            attempts = attempts.filter((a) => live.includes(a.uid));
          } else if (o.op !== "begin") {
            const [one] = attempts.splice(o.pick % Math.max(1, attempts.length), 1);
            one?.attempt[o.op]();
            if (!one && uid && o.op === "failed") for (let i = 0; i < 5; i++) breakers.begin(uid).failed();
          }
          for (const variant of new Set(live.map(variantOf))) {
            expect(live.some((uid) => variantOf(uid) === variant && breakers.state(uid) === "closed")).toBe(true);
          }
        }
        clock.advance(OPEN_MS);
        for (const uid of live) expect(breakers.state(uid)).not.toBe("open");
      }),
    );
  });
});

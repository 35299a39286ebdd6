import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { FakeKubeStore, type Stored } from "../../test/support/fake-kube-store.ts";
import { settle } from "../../test/support/settle.ts";
import { silentLogger } from "../lib/logger.ts";
import { ApiError, ConnectionError } from "./errors.ts";
import { acquireLease, type Leadership, type Lease, type LeaseOptions, NotLeaderError } from "./lease.ts";

const COLLECTION = "coordination.k8s.io/v1/leases";

/** Leases of one server, as one process reaches it: `away` loses its calls, `late` only the answers. */
class Leases {
  readonly store: FakeKubeStore;
  away = false;
  late = false;
  hang = false;
  calls = 0;

  constructor(store: FakeKubeStore) {
    this.store = store;
  }

  get client(): LeaseOptions["client"] {
    return {
      find: async (_, { namespace, name }, signal) =>
        this.#call(() => this.store.find(COLLECTION, `${namespace}/${name}`), signal),
      create: async (object, options) => this.#call(() => this.store.create(COLLECTION, object), options?.signal),
      update: async (object, options) => this.#call(() => this.store.replace(COLLECTION, object), options?.signal),
    } as LeaseOptions["client"];
  }

  async #call(act: () => Stored | undefined, signal?: AbortSignal): Promise<Stored | undefined> {
    this.calls++;
    signal?.throwIfAborted();
    if (this.hang) return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    if (this.away) throw new ConnectionError("lease", new Error("refused"));
    try {
      const result = act();
      if (this.late) throw new ConnectionError("lease", new Error("timeout"));
      return result && structuredClone(result);
    } catch (error) {
      const { code, reason } = error as { code?: number; reason?: string };
      throw code === undefined ? error : new ApiError("lease", code, { reason: reason ?? "" });
    }
  }
}

function setup() {
  const clock = new FakeClock();
  const store = new FakeKubeStore();
  const abort = new AbortController();
  onTestFinished(() => abort.abort(new Error("test over")));
  const candidate = (identity: string, own: FakeClock = clock) => {
    const leases = new Leases(store);
    const options: LeaseOptions = {
      client: leases.client,
      namespace: "ns",
      name: "op",
      identity,
      clock: own,
      random: () => 0.5,
      log: silentLogger,
    };
    const held: { leadership: Leadership | undefined } = { leadership: undefined };
    acquireLease(options, abort.signal).then(
      (leadership) => {
        held.leadership = leadership;
      },
      () => {},
    );
    const leads = () => held.leadership?.isLeader() ?? false;
    const leadership = () => {
      if (!held.leadership) throw new Error(`${identity} never led`);
      return held.leadership;
    };
    return { leases, leads, leadership };
  };
  const pass = async (ms: number, clocks = [clock]) => {
    for (let rest = ms; rest > 0; rest -= 500) {
      for (const one of clocks) one.advance(Math.min(500, rest));
      await settle();
    }
  };
  const lease = () => store.get(COLLECTION, "ns/op") as unknown as Required<Lease>;
  return { clock, store, candidate, pass, lease };
}

test("the first candidate leads, with times in the form that the server takes", async () => {
  const { candidate, pass, lease } = setup();
  const a = candidate("a");
  await pass(500);
  expect(a.leads()).toBe(true);
  expect(lease().spec).toEqual({
    holderIdentity: "a",
    leaseDurationSeconds: 15,
    leaseTransitions: 0,
    acquireTime: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/),
    renewTime: expect.stringMatching(/\.\d{6}Z$/),
  });
});

test("a leader that renews stays, and another waits", async () => {
  const { candidate, pass, lease } = setup();
  const a = candidate("a");
  await pass(500);
  const b = candidate("b");
  await pass(120_000);
  expect([a.leads(), b.leads()]).toEqual([true, false]);
  expect(lease().spec.leaseTransitions).toBe(0);
});

test("a lease that is given up is taken at the next look, not when it would have run out", async () => {
  const { candidate, pass, lease } = setup();
  const a = candidate("a");
  await pass(500);
  const b = candidate("b");
  await pass(1_000);
  const closing = a.leadership().close();
  await pass(3_500);
  await closing;
  expect([a.leads(), b.leads()]).toEqual([false, true]);
  expect(lease().spec.leaseTransitions).toBe(1);
  expect(a.leadership().signal.reason).toBeInstanceOf(NotLeaderError);
});

test("a leader that cannot reach the server stops by itself before another begins", async () => {
  const { candidate, pass } = setup();
  const a = candidate("a");
  await pass(500);
  const b = candidate("b");
  a.leases.away = true;
  await pass(9_000);
  expect([a.leads(), b.leads()]).toEqual([true, false]);
  await pass(2_000);
  expect([a.leads(), b.leads()]).toEqual([false, false]);
  expect(a.leadership().signal.aborted).toBe(true);
  await pass(10_000);
  expect(b.leads()).toBe(true);
});

test("a renewal that never answers does not keep a leader in office", async () => {
  const { candidate, pass } = setup();
  const a = candidate("a");
  await pass(500);
  a.leases.hang = true;
  await pass(10_500);
  expect(a.leadership().signal.aborted).toBe(true);
});

test("one connection that died unnoticed does not cost the lease", async () => {
  const { candidate, pass } = setup();
  const a = candidate("a");
  await pass(500);
  a.leases.hang = true;
  await pass(3_000);
  a.leases.hang = false;
  await pass(60_000);
  expect(a.leads()).toBe(true);
});

test("a renewal whose answer was lost is no loss", async () => {
  const { candidate, pass } = setup();
  const a = candidate("a");
  await pass(500);
  a.leases.late = true;
  await pass(5_000);
  a.leases.late = false;
  await pass(60_000);
  expect(a.leads()).toBe(true);
});

test("a foreign change of the lease that leaves its holder is no loss", async () => {
  const { store, candidate, pass } = setup();
  const a = candidate("a");
  await pass(500);
  store.merge(COLLECTION, "ns/op", { metadata: { annotations: { note: "hello" } } });
  await pass(60_000);
  expect(a.leads()).toBe(true);
});

test("a stolen or deleted lease is noticed at the next renewal", async () => {
  for (const harm of ["steal", "delete"]) {
    const { store, candidate, pass } = setup();
    const a = candidate("a");
    await pass(500);
    if (harm === "delete") store.delete(COLLECTION, "ns/op");
    else store.merge(COLLECTION, "ns/op", { spec: { holderIdentity: "thief" } });
    await pass(2_500);
    expect(a.leadership().signal.aborted).toBe(true);
    await expect(a.leadership().ensure()).rejects.toBeInstanceOf(NotLeaderError);
  }
});

test("a process that was stopped for 20 s writes nothing when it wakes", async () => {
  const { clock, candidate, pass } = setup();
  const own = new FakeClock();
  const a = candidate("a", own);
  await settle();
  const b = candidate("b");
  await pass(20_000, [clock]);
  expect(b.leads()).toBe(true);
  // It wakes: its clock has moved, its timers have not fired yet, and the first thing it does is a write.
  own.now = () => 20_000;
  expect(a.leadership().isLeader()).toBe(false);
  await expect(a.leadership().ensure()).rejects.toBeInstanceOf(NotLeaderError);
});

test("a machine that slept does not act on what it believed: only the wall clock saw the time pass", async () => {
  const { clock, candidate, pass } = setup();
  const own = new FakeClock();
  const a = candidate("a", own);
  await settle();
  const b = candidate("b");
  await pass(20_000, [clock]);
  own.stepWall(20_000);
  expect([a.leads(), b.leads()]).toEqual([false, true]);
  await expect(a.leadership().ensure()).rejects.toBeInstanceOf(NotLeaderError);
});

test("a wall clock that is set, by an hour and in either direction, costs nobody the lease", async () => {
  for (const step of [3_600_000, -3_600_000]) {
    const { clock, candidate, pass, lease } = setup();
    const a = candidate("a");
    await pass(500);
    const other = new FakeClock();
    const b = candidate("b", other);
    clock.stepWall(step);
    await a.leadership().ensure();
    other.stepWall(-step);
    await pass(60_000, [clock, other]);
    expect([a.leads(), b.leads()]).toEqual([true, false]);
    expect(lease().spec.leaseTransitions).toBe(0);
  }
});

test("while the lease is fresh, asking before a write costs no call", async () => {
  const { candidate, pass } = setup();
  const a = candidate("a");
  await pass(500);
  const before = a.leases.calls;
  for (let i = 0; i < 50; i++) await a.leadership().ensure();
  expect(a.leases.calls).toBe(before);
});

test("periods that contradict each other are refused", async () => {
  const { store } = setup();
  const options = {
    client: new Leases(store).client,
    namespace: "ns",
    name: "op",
    identity: "a",
    clock: new FakeClock(),
    random: Math.random,
    log: silentLogger,
    leaseMs: 5_000,
  };
  await expect(acquireLease(options, new AbortController().signal)).rejects.toBeInstanceOf(RangeError);
});

const disturbance = fc.record({
  who: fc.constantFrom(0, 1, 2),
  what: fc.constantFrom("away", "late", "hang", "back", "give up"),
  after: fc.integer({ min: 1, max: 20 }).map((halves) => halves * 500),
});

test("never two leaders at one instant, and one again when the server is back, whatever is lost on the way", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(disturbance, { maxLength: 20 }), async (disturbances) => {
      const clock = new FakeClock();
      const store = new FakeKubeStore();
      const abort = new AbortController();
      const all = ["a", "b", "c"].map((identity) => {
        const leases = new Leases(store);
        const held: { leadership: Leadership | undefined } = { leadership: undefined };
        const compete = async () => {
          for (;;) {
            held.leadership = await acquireLease(
              {
                client: leases.client,
                namespace: "ns",
                name: "op",
                identity,
                clock,
                random: () => 0.3,
                log: silentLogger,
              },
              abort.signal,
            );
            const { signal } = held.leadership;
            await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
          }
        };
        compete().catch(() => {});
        return { leases, held };
      });
      const leaders = () => all.filter(({ held }) => held.leadership?.isLeader()).length;
      const pass = async (ms: number) => {
        for (let rest = ms; rest > 0; rest -= 500) {
          clock.advance(500);
          await settle();
          expect(leaders()).toBeLessThanOrEqual(1);
        }
      };
      for (const { who, what, after } of disturbances) {
        const one = all[who];
        if (!one) continue;
        Object.assign(one.leases, { away: what === "away", late: what === "late", hang: what === "hang" });
        if (what === "give up") void one.held.leadership?.close();
        await pass(after);
      }
      for (const { leases } of all) Object.assign(leases, { away: false, late: false, hang: false });
      await pass(60_000);
      expect(leaders()).toBe(1);
      abort.abort(new Error("over"));
      for (const { held } of all) void held.leadership?.close();
      await settle();
    }),
    { numRuns: 25 },
  );
});

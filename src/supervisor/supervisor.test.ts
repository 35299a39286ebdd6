import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { FakeLaunch } from "../../test/support/fake-launch.ts";
import { processSpec } from "../../test/support/process-spec.ts";
import { silentLogger } from "../lib/logger.ts";
import type { ProcessSpec } from "./spec.ts";
import { Supervisor } from "./supervisor.ts";

function setUp({ cpus = 8, answering = true } = {}) {
  const clock = new FakeClock();
  const processes = new FakeLaunch();
  const world = { answering, otherCpus: 0 };
  const supervisor = new Supervisor({
    clock,
    random: () => 0.5,
    log: silentLogger,
    cpus,
    otherCpus: () => world.otherCpus,
    launch: processes.launch,
    probe: () => (world.answering ? answered : new Promise(() => {})),
  });
  const state = (id: string) => supervisor.list().find((endpoint) => endpoint.id === id);
  const states = () => supervisor.list().map((endpoint) => `${endpoint.id} ${endpoint.state}`);
  return { clock, processes, supervisor, state, states, world };
}

const pool = (count: number, change: Parameters<typeof processSpec>[1] = {}): ProcessSpec[] =>
  Array.from({ length: count }, (_, i) => processSpec(String(i), change));

/** A promise that is settled without a turn of the event loop, so that a clock can be advanced by minutes at once. */
// biome-ignore lint/suspicious/noThenProperty: that is the point.
const answered = { then: (yes: () => void) => yes() } as unknown as Promise<void>;

/** Lets real promises settle. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

describe("start", () => {
  test("shows each step of an instance on its way to Ready", () => {
    const { processes, supervisor, state } = setUp();
    supervisor.apply(pool(1));
    expect(state("0")).toMatchObject({ state: "Loading", url: "", pid: 1, restarts: 0 });
    processes.of("0").say({ type: "listening", port: 4711, metricsPort: 1 });
    processes.of("0").say({ type: "state", state: "Loading", fraction: 0.25 });
    expect(state("0")).toMatchObject({ state: "Loading", progress: 0.25, url: "http://127.0.0.1:4711" });
    processes.of("0").say({ type: "state", state: "WarmingUp" });
    expect(state("0")).toMatchObject({ state: "WarmingUp" });
    expect(state("0")).not.toHaveProperty("progress");
    processes
      .of("0")
      .say({ type: "ready", device: "CPU", modelName: "m", warmupSeconds: 1, tokensPerSecond: 61, warning: "no GPU" });
    expect(state("0")).toMatchObject({ state: "Ready", device: "CPU", tokensPerSecond: 61, message: "no GPU" });
  });

  test("loads at most as many at a time as there are CPUs, in order", () => {
    const { processes, supervisor, states } = setUp({ cpus: 2 });
    supervisor.apply(pool(4));
    expect(states()).toEqual(["0 Loading", "1 Loading", "2 Pending", "3 Pending"]);
    processes.of("1").becomeReady();
    expect(states()).toEqual(["0 Loading", "1 Ready", "2 Loading", "3 Pending"]);
    processes.of("0").end({ code: 1 });
    expect(states()).toEqual(["0 Failed", "1 Ready", "2 Loading", "3 Loading"]);
  });

  test("a second apply of the same set changes nothing", () => {
    const { processes, supervisor } = setUp();
    supervisor.apply(pool(3));
    supervisor.apply(pool(3));
    expect(processes.all).toHaveLength(3);
  });

  test("tells listeners of every change until they stop listening", () => {
    const { processes, supervisor, state } = setUp();
    const seen: (string | undefined)[] = [];
    const stop = supervisor.onChange(() => seen.push(state("0")?.state));
    supervisor.apply(pool(1));
    processes.of("0").becomeReady();
    stop();
    processes.of("0").end({ code: 1 });
    expect(seen.filter((one, i) => one !== seen[i - 1])).toEqual(["Loading", "WarmingUp", "Ready"]);
  });
});

describe("failures", () => {
  test("starts a dead process again after a wait that doubles up to a minute, under a new uid, and says why", () => {
    const { clock, processes, supervisor, state } = setUp();
    supervisor.apply(pool(2));
    processes.of("1").becomeReady();
    const waits: number[] = [];
    for (let i = 0; i < 8; i++) {
      const before = state("0")?.uid;
      processes.of("0").end({ signal: "SIGKILL" });
      expect(state("0")).toMatchObject({ state: "Failed", restarts: i, url: "", lastFailure: { reason: "Signal" } });
      expect(state("0")?.message).toContain("SIGKILL");
      const died = clock.now();
      while (state("0")?.state === "Failed") clock.advance(100);
      waits.push(clock.now() - died);
      expect(state("0")?.uid).not.toBe(before);
      expect(state("0")).toMatchObject({ state: "Loading", restarts: i + 1, lastFailure: { reason: "Signal" } });
    }
    expect(waits).toEqual([1500, 3000, 6000, 12_000, 24_000, 45_000, 45_000, 45_000]);
    expect(processes.of("1").signals).toEqual([]);
  });

  test("forgets a series of failures after a minute of Ready, not before", () => {
    const { clock, processes, supervisor, state } = setUp();
    supervisor.apply(pool(1));
    const waitAfter = (readyMs: number) => {
      processes.of("0").becomeReady();
      clock.advance(readyMs);
      processes.of("0").end({ code: 1 });
      const died = clock.now();
      while (state("0")?.state === "Failed") clock.advance(100);
      return clock.now() - died;
    };
    expect([waitAfter(0), waitAfter(59_000), waitAfter(60_000)]).toEqual([1500, 3000, 1500]);
  });

  test("tries what only a new file can cure once a minute", () => {
    const { clock, processes, supervisor, state } = setUp();
    supervisor.apply(pool(1));
    processes.of("0").say({ type: "failed", reason: "ModelInvalid", message: "m.gguf has no magic" });
    processes.of("0").end({ code: 1 });
    expect(state("0")).toMatchObject({
      state: "Failed",
      message: "m.gguf has no magic",
      lastFailure: { reason: "ModelInvalid" },
    });
    clock.advance(59_999);
    expect(state("0")?.state).toBe("Failed");
    clock.advance(1);
    expect(state("0")?.state).toBe("Loading");
  });

  test("ends a process that says it failed and stays", () => {
    const { clock, processes, supervisor, state } = setUp();
    supervisor.apply(pool(1));
    processes.of("0").say({ type: "failed", reason: "PortInUse", message: "port 80 is taken" });
    clock.advance(5000);
    expect(state("0")).toMatchObject({
      state: "Failed",
      lastFailure: { reason: "PortInUse", message: "port 80 is taken" },
    });
  });

  test("kills what misses three probes in a row, and only then", () => {
    const { clock, processes, supervisor, state, world } = setUp();
    supervisor.apply(pool(1));
    processes.of("0").becomeReady();
    const ask = (count: number, answering: boolean) => {
      world.answering = answering;
      clock.advance(5000 * count);
    };
    ask(1, true);
    ask(2, false);
    ask(1, true);
    ask(3, false);
    expect(state("0")?.state).toBe("Ready");
    clock.advance(5000); // the third of them is due
    expect(state("0")).toMatchObject({ state: "Failed", lastFailure: { reason: "Unresponsive" } });
  });

  test("kills what never opens its port", () => {
    const { clock, supervisor, state } = setUp();
    supervisor.apply(pool(1));
    clock.advance(120_000);
    expect(state("0")).toMatchObject({ state: "Failed", lastFailure: { reason: "Unresponsive" } });
  });
});

describe("a process that comes after another", () => {
  const card = () => [processSpec("weights"), ...pool(3, { after: "weights" })];

  test("starts when that is Ready, and says what it waits for until then", () => {
    const { processes, supervisor, states, state } = setUp();
    supervisor.apply(card());
    expect(states()).toEqual(["weights Loading", "0 Pending", "1 Pending", "2 Pending"]);
    expect(state("1")).toMatchObject({ message: "waits for weights" });
    expect(processes.alive).toHaveLength(1);
    processes.of("weights").becomeReady();
    expect(states()).toEqual(["weights Ready", "0 Loading", "1 Loading", "2 Loading"]);
  });

  test("is replaced when that was started again: one after the other, each when the one before is Ready", () => {
    const { clock, processes, supervisor, states, state } = setUp();
    supervisor.apply(card());
    processes.of("weights").becomeReady();
    for (const id of ["0", "1", "2"]) processes.of(id).becomeReady();
    expect(state("0")).not.toHaveProperty("message");
    processes.of("weights").end({ signal: "SIGKILL" });
    expect(states()).toEqual(["weights Failed", "0 Ready", "1 Ready", "2 Ready"]);
    expect(state("2")).toMatchObject({ message: expect.stringContaining("weights has ended: this one is replaced") });
    clock.advance(3000);
    expect(states()).toEqual(["weights Loading", "0 Ready", "1 Ready", "2 Ready"]);
    processes.of("weights").becomeReady();
    for (const [i, id] of ["0", "1", "2"].entries()) {
      expect(states().map((text) => text.includes("Draining"))).toEqual([false, ...[0, 1, 2].map((n) => n === i)]);
      const old = processes.of(id);
      expect(old.drained).toBe(true);
      old.end({ code: 0 });
      processes.of(id).becomeReady();
    }
    expect(states()).toEqual(["weights Ready", "0 Ready", "1 Ready", "2 Ready"]);
    for (const id of ["0", "1", "2"]) expect(state(id)).not.toHaveProperty("message");
    expect(processes.all).toHaveLength(8);
  });

  test("that died by itself meanwhile is started once", () => {
    const { clock, processes, supervisor, states } = setUp();
    supervisor.apply(card());
    processes.of("weights").becomeReady();
    for (const id of ["0", "1", "2"]) processes.of(id).becomeReady();
    processes.of("weights").end({ signal: "SIGKILL" });
    processes.of("1").end({ signal: "SIGKILL" });
    clock.advance(3000);
    // It may have been too early for the weights: once they are there it is started, and no backoff holds it up.
    processes.of("1").end({ code: 1 });
    processes.of("weights").becomeReady();
    expect(states()).toEqual(["weights Ready", "0 Ready", "1 Loading", "2 Ready"]);
  });
});

describe("stop and replace", () => {
  test("drains an unwanted instance, keeps its address meanwhile, and forgets it when it is gone", () => {
    const { processes, supervisor, states, state } = setUp();
    supervisor.apply(pool(2));
    for (const one of processes.alive) one.becomeReady();
    supervisor.apply(pool(1));
    expect(states()).toEqual(["0 Ready", "1 Draining"]);
    expect(state("1")?.url).not.toBe("");
    expect(processes.of("1").received).toContainEqual({ type: "drain", deadlineMs: 30_000 });
    processes.of("1").end({ code: 0 });
    expect(states()).toEqual(["0 Ready"]);
  });

  test("ends what does not drain in time: SIGTERM, then SIGKILL", () => {
    const { clock, processes, supervisor } = setUp();
    supervisor.apply(pool(1));
    const [one] = processes.all;
    supervisor.apply([]);
    clock.advance(29_999);
    expect(one?.signals).toEqual([]);
    clock.advance(1);
    expect(one?.signals).toEqual(["SIGTERM"]);
    clock.advance(5000);
    expect(one?.signals).toEqual(["SIGTERM", "SIGKILL"]);
    expect(supervisor.list()).toEqual([]);
  });

  test("does not take the silence of a draining instance for a hang", () => {
    const { clock, processes, supervisor, world } = setUp();
    supervisor.apply(pool(1));
    processes.of("0").becomeReady();
    supervisor.apply([]);
    world.answering = false;
    clock.advance(29_000);
    expect(processes.of("0").signals).toEqual([]);
  });

  test("an instance that is wanted again while it drains comes back when it is gone", () => {
    const { processes, supervisor, states } = setUp();
    supervisor.apply(pool(1));
    processes.of("0").becomeReady();
    supervisor.apply([]);
    supervisor.apply(pool(1));
    expect(states()).toEqual(["0 Draining"]);
    processes.of("0").end({ code: 0 });
    expect(states()).toEqual(["0 Loading"]);
  });

  test("replaces one at a time per variant, the next when all current ones are Ready", () => {
    const { processes, supervisor, states } = setUp();
    const wanted = (revision: string) => [
      ...pool(3, { revision }),
      processSpec("code-0", { variant: "code", revision }),
    ];
    supervisor.apply(wanted("a"));
    for (const one of processes.alive) one.becomeReady();
    supervisor.apply(wanted("b"));
    expect(states()).toEqual(["0 Draining", "1 Ready", "2 Ready", "code-0 Draining"]);
    processes.of("0").end({ code: 0 });
    expect(states()).toEqual(["0 Loading", "1 Ready", "2 Ready", "code-0 Draining"]);
    expect(processes.of("0").spec.revision).toBe("b");
    processes.of("0").becomeReady();
    expect(states()).toEqual(["0 Ready", "1 Draining", "2 Ready", "code-0 Draining"]);
  });

  test("a revision that cannot become Ready stops at its first instance, and going back heals it", () => {
    const { clock, processes, supervisor, states } = setUp();
    supervisor.apply(pool(3, { revision: "a" }));
    for (const one of processes.alive) one.becomeReady();
    supervisor.apply(pool(3, { revision: "bad" }));
    processes.of("0").end({ code: 0 });
    for (let i = 0; i < 5; i++) {
      processes.of("0").end({ code: 1 });
      clock.advance(60_000);
    }
    processes.of("0").end({ code: 1 });
    expect(states()).toEqual(["0 Failed", "1 Ready", "2 Ready"]);
    supervisor.apply(pool(3, { revision: "a" }));
    expect(states()).toEqual(["0 Loading", "1 Ready", "2 Ready"]);
    expect(supervisor.list()[0]?.restarts).toBe(0);
  });

  test("replaces at once what serves nobody", () => {
    const { processes, supervisor } = setUp();
    supervisor.apply(pool(3, { revision: "a" }));
    supervisor.apply(pool(3, { revision: "b" }));
    expect(processes.alive.every((one) => one.drained)).toBe(true);
  });

  test("an equal revision keeps its process, whatever else changed", () => {
    const { clock, processes, supervisor } = setUp();
    supervisor.apply(pool(1));
    processes.of("0").becomeReady();
    supervisor.apply(pool(1, { drainSeconds: 1 }));
    expect(processes.of("0").drained).toBe(false);
    supervisor.apply([]);
    clock.advance(1000);
    expect(processes.of("0").signals).toEqual(["SIGTERM"]);
  });
});

describe("close", () => {
  test("drains all within the grace and resolves when the last is gone", async () => {
    const { processes, supervisor } = setUp();
    supervisor.apply(pool(2));
    let closed = false;
    const closing = supervisor.close(10_000).then(() => {
      closed = true;
    });
    processes.of("0").end({ code: 0 });
    await settle();
    expect(closed).toBe(false);
    processes.of("1").end({ code: 0 });
    await closing;
    supervisor.apply(pool(2));
    expect(supervisor.list()).toEqual([]);
  });

  test("a second close with no grace kills", async () => {
    const { clock, processes, supervisor } = setUp();
    supervisor.apply(pool(2));
    const first = supervisor.close(600_000);
    const second = supervisor.close(0);
    clock.advance(0);
    await Promise.all([first, second, supervisor.close(5)]);
    expect(processes.alive).toEqual([]);
  });

  test("stops what waits for its turn without starting it", async () => {
    const { processes, supervisor } = setUp({ cpus: 1 });
    supervisor.apply(pool(3));
    const closing = supervisor.close(1000);
    processes.of("0").end({ code: 0 });
    await closing;
    expect(processes.all.map((one) => one.spec.id)).toEqual(["0"]);
  });

  test("stops what waits for its restart without starting it", async () => {
    const { processes, supervisor } = setUp({ cpus: 1 });
    supervisor.apply(pool(3));
    processes.of("0").end({ code: 1 }); // 0 waits for its restart, 1 loads, 2 waits for its turn
    const closing = supervisor.close(1000);
    processes.of("1").end({ code: 0 });
    await closing;
    expect(processes.all.map((one) => one.spec.id)).toEqual(["0", "1"]);
  });
});

describe("threads", () => {
  test("one each when all work, all to the one who works alone, back at once when another begins", () => {
    const { clock, processes, supervisor } = setUp({ cpus: 4 });
    supervisor.apply(pool(4));
    expect(processes.all.map((one) => one.spec.config.threads)).toEqual([1, 1, 1, 1]);
    for (const one of processes.alive) one.becomeReady();
    processes.of("2").say({ type: "running", count: 1 });
    expect(processes.of("2").threads).toBe(1);
    clock.advance(100);
    expect(processes.of("2").threads).toBe(4);
    processes.of("0").say({ type: "running", count: 2 });
    expect(processes.of("2").threads).toBe(2);
    expect(processes.of("0").threads).toBe(1);
    clock.advance(100);
    expect(processes.of("0").threads).toBe(2);
  });

  test("a short pause moves nothing, and what does not change is not sent", () => {
    const { clock, processes, supervisor } = setUp({ cpus: 2 });
    supervisor.apply(pool(2));
    for (const one of processes.alive) one.becomeReady();
    for (const one of processes.alive) one.say({ type: "running", count: 1 });
    for (let i = 0; i < 5; i++) {
      processes.of("0").say({ type: "running", count: 0 });
      clock.advance(50);
      processes.of("0").say({ type: "running", count: 1 });
      clock.advance(50);
    }
    expect(processes.alive.flatMap((one) => one.received)).toEqual([]);
  });

  test("lends only what other programs leave free, and more when they are done", () => {
    const { clock, processes, supervisor, world } = setUp({ cpus: 4 });
    supervisor.apply(pool(4));
    for (const one of processes.alive) one.becomeReady();
    world.otherCpus = 2.2;
    processes.of("0").say({ type: "running", count: 1 });
    clock.advance(100);
    expect(processes.of("0").threads).toBe(2);
    world.otherCpus = 0.2;
    clock.advance(1100);
    expect(processes.of("0").threads).toBe(4);
    world.otherCpus = 2.9;
    clock.advance(1000);
    expect(processes.of("0").threads).toBe(1);
  });

  test("never lends more than an instance may use", () => {
    const { clock, processes, supervisor } = setUp({ cpus: 8 });
    supervisor.apply([processSpec("0", { cpuLimit: 3 })]);
    expect(processes.of("0").spec.config.threads).toBe(3);
    processes.of("0").becomeReady();
    processes.of("0").say({ type: "running", count: 1 });
    clock.advance(100);
    expect(processes.of("0").threads).toBe(3);
  });
});

test("whatever happens in whatever order: one process per id at most, no ready neighbour touched, and in the end what is wanted runs", () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant("apply" as const), count: fc.nat(4), revision: fc.constantFrom("a", "b", "c") }),
    fc.record({ do: fc.constantFrom("ready" as const, "die" as const, "finish" as const), which: fc.nat(7) }),
    fc.record({ do: fc.constant("wait" as const), ms: fc.nat(40_000) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.integer({ min: 1, max: 4 }), (steps, cpus) => {
      const { clock, processes, supervisor } = setUp({ cpus });
      let wanted: ProcessSpec[] = [];
      const serving = () => supervisor.list().filter((one) => one.state === "Ready").length;
      const check = () => {
        const ids = processes.alive.map((one) => one.spec.id);
        expect(new Set(ids).size).toBe(ids.length);
        const loading = supervisor.list().filter((one) => one.state === "Loading" || one.state === "WarmingUp");
        expect(loading.length).toBeLessThanOrEqual(cpus);
        const ready = supervisor.list().filter((one) => one.state === "Ready");
        const lent = processes.alive.filter((one) => ready.some((endpoint) => endpoint.pid === one.pid));
        for (const one of lent) expect(one.threads).toBeLessThanOrEqual(cpus);
      };
      for (const one of steps) {
        const target = "which" in one ? processes.alive[one.which % Math.max(1, processes.alive.length)] : undefined;
        const before = serving();
        if (one.do === "apply") {
          wanted = pool(one.count, { revision: one.revision });
          const leaving = supervisor.list().filter((e) => e.state === "Ready" && Number(e.id) >= one.count).length;
          supervisor.apply(wanted);
          expect(serving()).toBeGreaterThanOrEqual(before - leaving - 1);
        } else if (one.do === "ready") target?.becomeReady();
        else if (one.do === "die") target?.end({ signal: "SIGSEGV" });
        else if (one.do === "finish" && target?.drained) target.end({ code: 0 });
        else if (one.do === "wait") clock.advance(one.ms);
        check();
      }
      for (let i = 0; i < 40; i++) {
        for (const one of processes.alive) one.drained ? one.end({ code: 0 }) : one.becomeReady();
        clock.advance(10_000);
        check();
      }
      expect(supervisor.list().map((one) => `${one.id} ${one.state}`)).toEqual(wanted.map((one) => `${one.id} Ready`));
      expect(processes.alive.map((one) => `${one.spec.id} ${one.spec.revision}`).sort()).toEqual(
        wanted.map((one) => `${one.id} ${one.revision}`).sort(),
      );
    }),
    { numRuns: 100 },
  );
});

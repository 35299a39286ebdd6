import { describe, expect, test } from "vitest";
import { ApiError } from "../src/kube/errors.ts";
import { FakeClock } from "../test/support/fake-clock.ts";
import type { Pod } from "./kinds.ts";
import { podStateIn } from "./pod-state.ts";
import { EventWords, identified, type Subject } from "./words.ts";

const set: Subject = { kind: "StatefulSet", name: "apex" };
const event = (message: string, lastTimestamp: string, type = "Warning", reason = "FailedCreate") => ({
  message,
  lastTimestamp,
  type,
  reason,
  metadata: {},
});

function asking(items: object[], failure?: Error) {
  const clock = new FakeClock();
  const asked: unknown[] = [];
  const client = {
    request: async (_: string, __: string, options: { query?: unknown } = {}) => {
      asked.push(options.query);
      if (failure) throw failure;
      return { metadata: {}, items } as never;
    },
  };
  const words = new EventWords(client, clock);
  const about = (subjects = [set]) => words.about("ns/apex", "ns", subjects, new AbortController().signal);
  return { clock, asked, about };
}

describe("what Events say of an object that stays behind", () => {
  test("is asked after a while, and then every five seconds", async () => {
    const { clock, asked, about } = asking([event("quota", "2026-01-01T00:00:00Z")]);
    expect(await about()).toEqual({ words: new Map(), againMs: 3_000 });
    clock.advance(3_000);
    expect(await about()).toEqual({ words: new Map([["StatefulSet/apex", "quota"]]), againMs: 5_000 });
    clock.advance(1_000);
    expect(await about()).toEqual({ words: new Map([["StatefulSet/apex", "quota"]]), againMs: 4_000 });
    expect(asked).toEqual([{ fieldSelector: "involvedObject.kind=StatefulSet,involvedObject.name=apex" }]);
  });

  test("is the newest warning, or that a claim found no volume", async () => {
    const { clock, about } = asking([
      event("newer", "2026-01-01T00:00:02Z", "Normal", "FailedBinding"),
      event("newest, and no trouble", "2026-01-01T00:00:03Z", "Normal", "SuccessfulCreate"),
      event("older", "2026-01-01T00:00:01Z"),
    ]);
    await about();
    clock.advance(3_000);
    expect((await about()).words.get("StatefulSet/apex")).toBe("newer");
  });

  test("is forgotten when it has come along, so that the next time has its own words", async () => {
    const { clock, asked, about } = asking([event("quota", "2026-01-01T00:00:00Z")]);
    await about();
    clock.advance(3_000);
    await about();
    expect(await about([])).toEqual({ words: new Map(), againMs: undefined });
    expect((await about()).words.size).toBe(0);
    expect(asked.length).toBe(1);
  });

  describe("of a pod", () => {
    const at = (second: number) => `2026-01-01T00:00:0${second}Z`;
    const apex0: Subject = { kind: "Pod", name: "apex-0", uid: "new", placed: true };
    const saying = async (items: object[], subject = apex0) => {
      const { clock, asked, about } = asking(items);
      await about([subject]);
      clock.advance(3_000);
      return { said: (await about([subject])).words.get("Pod/apex-0"), asked };
    };

    test("is of the one that bears the name now, and each has its own time to come along", async () => {
      const known = { kind: "Pod", metadata: { name: "apex-0", uid: "new" }, spec: { nodeName: "n1" } } as Pod;
      expect(identified([{ kind: "Pod", name: "apex-0" }], () => known)).toEqual([apex0]);
      const { said, asked } = await saying([event("no secret", at(1), "Warning", "FailedMount")]);
      expect(said).toBe("no secret");
      const one = "involvedObject.kind=Pod,involvedObject.name=apex-0,involvedObject.uid=new";
      expect(asked).toEqual([{ fieldSelector: one }]);
      const { clock, about } = asking([event("no secret", at(1), "Warning", "FailedMount")]);
      await about([apex0]);
      clock.advance(3_000);
      expect((await about([{ ...apex0, uid: "newer" }])).words.size).toBe(0);
    });

    test("is nothing once it has come further, or has its node", async () => {
      const mount = event("no secret", at(2), "Warning", "FailedMount");
      const step = (reason: string, second: number) => event("", at(second), "Normal", reason);
      expect((await saying([mount, step("Pulling", 3)])).said).toBeUndefined();
      expect((await saying([mount, step("Scheduled", 1)])).said).toBe("no secret");
      expect((await saying([mount, step("SandboxChanged", 3)])).said).toBe("no secret");
      const unplaced = event("0/2 nodes", at(2), "Warning", "FailedScheduling");
      expect((await saying([unplaced])).said).toBeUndefined();
      expect((await saying([unplaced], { ...apex0, placed: false })).said).toBe("0/2 nodes");
    });
  });

  test("is nothing where Events may not be read", async () => {
    const { clock, about } = asking([], new ApiError("GET", 403));
    await about();
    clock.advance(3_000);
    expect((await about()).words.size).toBe(0);
  });
});

const pod = (status: Pod["status"]): Pod => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "apex-0" },
  spec: { containers: [], volumes: [{ name: "m", persistentVolumeClaim: { claimName: "models" } }] },
  ...(status && { status }),
});
const unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found";

test("a pod that waits for a volume is on its way until Events say that there will be none", () => {
  const waiting = pod({ conditions: [{ type: "PodScheduled", status: "False", message: unbound }] });
  expect(podStateIn(waiting, new Map())).toEqual({ state: "Pending", restarts: 0, message: unbound });
  expect(podStateIn(waiting, new Map([["PersistentVolumeClaim/models", "no class fast"]]))).toMatchObject({
    reason: "VolumeUnbound",
    message: "claim models has no volume: no class fast",
  });
});

test("a pod that does not say why it waits is spoken for by its Events", () => {
  const status = { name: "instance", image: "", imageID: "", ready: false, restartCount: 0 };
  const waiting = pod({ containerStatuses: [{ ...status, state: { waiting: { reason: "ContainerCreating" } } }] });
  expect(podStateIn(waiting, new Map())).toEqual({ state: "Pending", restarts: 0 });
  expect(podStateIn(waiting, new Map([["Pod/apex-0", 'secret "keys" not found']]))).toMatchObject({
    reason: "Blocked",
    message: 'secret "keys" not found',
  });
});

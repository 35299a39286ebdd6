import { describe, expect, test } from "vitest";
import type { LLMPoolStatus } from "../src/api/llmpool.ts";
import { LLMPoolStatus as StatusSchema } from "../src/api/status.ts";
import { planPool } from "../src/core/plan/plan.ts";
import { pool as makePool } from "../test/support/pool.ts";
import type { Told } from "./ask.ts";
import type { Observed } from "./gather.ts";
import type { Pod } from "./kinds.ts";
import type { ObservedLoad } from "./model-state.ts";
import { loadsOf } from "./render/model-load.ts";
import { variantsOf } from "./render/variant.ts";
import { mayBeStuckSoon, type StatusInput, statusOf } from "./status.ts";

type PodStatus = NonNullable<Pod["status"]>;
type RouterStatus = NonNullable<NonNullable<Observed["router"]["deployment"]>["status"]>;

const READY: PodStatus = { conditions: [{ type: "Ready", status: "True" }] };
const LOADING: PodStatus = {
  containerStatuses: [
    { name: "instance", image: "", imageID: "", ready: false, restartCount: 0, state: { running: {} } },
  ],
};
const crashed = (message: string): PodStatus => ({
  containerStatuses: [
    {
      name: "instance",
      image: "",
      imageID: "",
      ready: false,
      restartCount: 2,
      state: { waiting: { reason: "CrashLoopBackOff" } },
      lastState: { terminated: { exitCode: 1, message } },
    },
  ],
});
const UNPLACED: PodStatus = {
  conditions: [{ type: "PodScheduled", status: "False", message: "0/2 nodes are available" }],
};

interface World {
  spec?: object;
  pods?: PodStatus[];
  surplus?: Pod[];
  routers?: number;
  /** Pods of the router, and what its Deployment says besides `routers`. */
  router?: { pods: PodStatus[]; status: RouterStatus };
  input?: Partial<StatusInput>;
  /** Of every model that belongs on a volume. */
  loading?: Partial<ObservedLoad>;
  /** Whether the pods are told to go. */
  leaving?: boolean;
  /** Revision of the pods, where it is not the wanted one. */
  revision?: string;
}

function look({
  spec = {},
  pods = [],
  surplus = [],
  routers = 1,
  router,
  input = {},
  revision,
  leaving = false,
  loading = {},
}: World): LLMPoolStatus {
  const pool = makePool({ backend: "stub", instances: pods.length, ...spec });
  const plan = planPool(pool);
  const variants = variantsOf(pool, plan);
  const loads = loadsOf(variants).map(
    (load): ObservedLoad => ({ load, facts: undefined, job: undefined, pods: [], ...loading }),
  );
  const observed: Observed = {
    loads,
    variants: variants.map((rendered, at) => ({
      rendered,
      set: undefined,
      load: loads.find(({ load }) => load.factsName === rendered.load?.factsName),
      pods: (at === 0 ? pods : []).map(
        (status, ordinal): Pod => ({
          apiVersion: "v1",
          kind: "Pod",
          metadata: {
            name: `apex-${ordinal}`,
            annotations: { "llmpool.dev/revision": revision ?? rendered.podRevision },
            ...(leaving && { deletionTimestamp: "2026-01-01T00:00:00Z" }),
          },
          spec: { containers: [], ...(status === UNPLACED ? {} : { nodeName: "n1" }) },
          status,
        }),
      ),
    })),
    surplus,
    router: {
      deployment: {
        apiVersion: "apps/v1",
        kind: "Deployment",
        metadata: { name: "apex", generation: 1 },
        status: { availableReplicas: routers, updatedReplicas: routers, observedGeneration: 1, ...router?.status },
      },
      pods: (router?.pods ?? []).map((status, i) => ({
        ...{ apiVersion: "v1", kind: "Pod", metadata: { name: `apex-x-${i}` }, spec: { containers: [] }, status },
      })),
    },
  };
  const status = statusOf({
    pool,
    generation: 3,
    plan,
    observed,
    problems: [],
    refused: false,
    written: new Set(),
    awaited: new Set(),
    told: new Map(),
    words: new Map(),
    fits: [],
    before: undefined,
    now: "2026-01-01T00:00:00Z",
    ...input,
  });
  // What the API server would take.
  return StatusSchema.parse(status);
}

function judged(status: LLMPoolStatus): Record<string, string> {
  return Object.fromEntries((status.conditions ?? []).map((c) => [c.type, `${c.status} ${c.reason}`]));
}

const messageOf = (status: LLMPoolStatus, type: string) => status.conditions?.find((c) => c.type === type)?.message;

describe("a pool", () => {
  test("that runs", () => {
    const status = look({ pods: [READY, READY] });
    expect(judged(status)).toEqual({
      Ready: "True Ready",
      InstancesReady: "True Ready",
      RouterReady: "True Ready",
      ModelAvailable: "True NotNeeded",
      Schedulable: "True Ready",
      Progressing: "False Complete",
    });
    expect(status).toMatchObject({
      observedGeneration: 3,
      desiredInstances: 2,
      instances: 2,
      readyInstances: 2,
      url: "http://apex.default.svc:8080",
      roles: [{ name: "planner", instances: ["0"] }, { name: "coder", instances: ["1"] }, {}, {}, {}],
      instanceStatuses: [
        { id: "0", pod: "apex-0", state: "Ready", node: "n1" },
        { id: "1", state: "Ready" },
      ],
    });
  });

  test("that starts is on its way, and nothing is wrong", () => {
    expect(judged(look({ pods: [READY, LOADING], routers: 0 }))).toMatchObject({
      Ready: "False Degraded",
      Progressing: "True Loading",
      Reconciling: "True Loading",
    });
    expect(judged(look({ pods: [LOADING] }))).not.toHaveProperty("Stalled");
  });

  test("that cannot start says why, in the runtime's words", () => {
    const words = '{"reason":"ModelNotFound","msg":"no model at /m: check model.uri"}';
    const spec = { backend: "llama-cpp", model: { uri: "file:///m" } };
    const status = look({ spec, pods: [crashed(words)] });
    expect(judged(status)).toMatchObject({
      Ready: "False Failed",
      ModelAvailable: "False ModelNotFound",
      Stalled: "True Failed",
    });
    expect(judged(status)).not.toHaveProperty("Reconciling");
    expect(messageOf(status, "Ready")).toBe("0 of 1 instances ready; 0: no model at /m: check model.uri");
  });

  describe("whose model belongs on a volume", () => {
    const model = { uri: "hf://org/repo", cache: { storage: "40Gi" } };
    const spec = { backend: "hf-cuda", model, instances: 2 };
    const facts = { path: "hf/m", format: "safetensors" as const, bytes: 9 };
    const words = '{"reason":"ModelNotFound","msg":"no such repository"}';
    const failed = { apiVersion: "v1", kind: "Pod", metadata: { name: "load" }, status: crashed(words) };

    test("waits for it without pods", () => {
      const status = look({ spec });
      expect(judged(status)).toMatchObject({ Ready: "False Loading", ModelAvailable: "Unknown Loading" });
      expect(status.instanceStatuses?.map(({ state }) => state)).toEqual(["Loading", "Loading"]);
      expect(messageOf(status, "Ready")).toMatch(/^0 of 2 .*hf:\/\/org\/repo into claim apex-model$/);
    });

    test("says why it cannot be had, and waits for somebody", () => {
      const status = look({ spec, loading: { pods: [failed] } });
      expect(judged(status)).toMatchObject({
        Ready: "False Failed",
        ModelAvailable: "False ModelNotFound",
        Stalled: "True Failed",
      });
      expect(messageOf(status, "ModelAvailable")).toBe("hf://org/repo cannot be loaded: no such repository");
    });

    test("serves on with what it had while a new one cannot be had", () => {
      const status = look({ spec, pods: [READY, READY], revision: "old", loading: { pods: [failed] } });
      expect(judged(status)).toMatchObject({ Ready: "True Ready", ModelAvailable: "False ModelNotFound" });
      expect(judged(status)).toMatchObject({ Stalled: "True ModelNotFound", Progressing: "True RollingOut" });
    });

    test("waits for somebody when the loader of a new one fits nowhere", () => {
      const unplaced = { apiVersion: "v1", kind: "Pod", metadata: { name: "load" }, status: UNPLACED };
      const status = look({ spec, pods: [READY, READY], revision: "old", loading: { pods: [unplaced] } });
      expect(judged(status)).toMatchObject({ Ready: "True Ready", Stalled: "True Unschedulable" });
    });

    test("has it when its facts are known", () => {
      expect(judged(look({ spec, pods: [LOADING], loading: { facts } }))).toMatchObject({
        ModelAvailable: "True Ready",
      });
    });

    test("is told when the loader says nothing", () => {
      const conditions = [{ type: "Complete", status: "True", lastTransitionTime: "2026-01-01T00:00:00Z" }];
      const job = { apiVersion: "batch/v1", kind: "Job", metadata: { name: "j" }, status: { conditions } };
      const loader = (phase: string): Pod => ({
        ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "load" }, spec: { containers: [] } },
        status: { phase, containerStatuses: phase === "Running" ? (LOADING.containerStatuses ?? []) : [] },
      });
      const modelAfter = (...pods: Pod[]) => judged(look({ spec, loading: { job, pods } })).ModelAvailable;
      expect([modelAfter(), modelAfter(loader("Succeeded"))]).toEqual(["False LoaderSilent", "False LoaderSilent"]);
      // Its pod's end, which came before, is not heard of yet.
      expect(modelAfter(loader("Running"))).toBe("Unknown Loading");
    });
  });

  test("that fits nowhere says so in the scheduler's words", () => {
    const status = look({ pods: [UNPLACED] });
    expect(judged(status)).toMatchObject({ Ready: "False Unschedulable", Schedulable: "False Unschedulable" });
    expect(messageOf(status, "Schedulable")).toBe("apex-0: 0/2 nodes are available");
  });

  test("of which one instance fits nowhere waits for somebody, also while others serve, but not at once", () => {
    const refused = (at: string): PodStatus => ({
      conditions: [{ type: "PodScheduled", status: "False", message: "0/2 nodes", lastTransitionTime: at }],
    });
    const status = look({ pods: [READY, refused("2025-12-31T23:59:55Z")] });
    expect(judged(status)).toMatchObject({ Ready: "False Degraded", Stalled: "True Degraded" });
    expect(judged(status)).not.toHaveProperty("Reconciling");
    // The cards of the one before may be free in a moment.
    const now = look({ pods: [READY, refused("2025-12-31T23:59:56Z")] });
    expect(judged(now)).toMatchObject({ Ready: "False Degraded", Reconciling: "True Loading" });
    expect(mayBeStuckSoon(now)).toBe(true);
  });

  test("with a pod on a lost node waits for somebody, also when the pod is told to go or is not wanted any more", () => {
    const lost: PodStatus = {
      conditions: [
        { type: "Ready", status: "False" },
        { type: "ContainersReady", status: "True" },
      ],
    };
    const evicted = look({ pods: [lost], leaving: true });
    expect(judged(evicted)).toMatchObject({
      Ready: "False Failed",
      Stalled: "True Failed",
      Progressing: "True RollingOut",
    });
    const surplus: Pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "apex-1" }, status: lost };
    const scaledDown = look({ pods: [READY], surplus: [surplus] });
    expect(judged(scaledDown)).toMatchObject({ Ready: "True Ready", Stalled: "True Failed" });
    expect(messageOf(scaledDown, "Stalled")).toMatch(/^apex-1: node .* does not answer/);
  });

  test("whose router is away is not ready", () => {
    expect(judged(look({ pods: [READY], routers: 0 }))).toMatchObject({
      Ready: "False Loading",
      InstancesReady: "True Ready",
      RouterReady: "False Loading",
    });
  });

  describe("whose router was edited to one that cannot start, while those of before serve,", () => {
    const spec = { router: { replicas: 2 }, store: { redisSecretRef: { name: "redis", key: "url" } } };
    const edited = (pod: PodStatus, status: RouterStatus = {}) =>
      look({
        spec,
        pods: [READY],
        routers: 2,
        router: { pods: [READY, READY, pod], status: { updatedReplicas: 1, ...status } },
      });

    test("says why, and waits for somebody", () => {
      const status = edited(crashed('{"msg":"no such file"}'));
      expect(judged(status)).toMatchObject({ Ready: "True Ready", RouterReady: "True Ready", Stalled: "True Failed" });
      expect(judged(status)).not.toHaveProperty("Reconciling");
      expect(messageOf(status, "RouterReady")).toBe("2 of 2 routers serve; a router cannot start: no such file");
      expect(messageOf(status, "Progressing")).toBe("the router starts: no such file");
      expect(messageOf(status, "Stalled")).toBe("the router: no such file");
    });

    test("does so also where a quota forbids the new one, and not at once where the scheduler does", () => {
      const refused = { type: "ReplicaFailure", status: "True", message: "exceeded quota" };
      expect(judged(edited(LOADING, { conditions: [refused] }))).toMatchObject({ Stalled: "True PodsRefused" });
      const unplaced = (lastTransitionTime: string): PodStatus => ({
        conditions: [{ type: "PodScheduled", status: "False", message: "0/2 nodes", lastTransitionTime }],
      });
      expect(judged(edited(unplaced("2025-12-31T23:59:55Z")))).toMatchObject({ Stalled: "True Unschedulable" });
      const now = edited(unplaced("2025-12-31T23:59:56Z"));
      expect(judged(now)).toMatchObject({ Reconciling: "True Loading" });
      expect(mayBeStuckSoon(now)).toBe(true);
    });

    test("is on its way while the new one starts, and not complete before that of before is gone", () => {
      expect(judged(edited(LOADING))).toMatchObject({ Reconciling: "True Loading" });
      const single = { ...spec, router: { replicas: 1 } };
      const both = { pods: [READY, LOADING], status: { replicas: 2 } };
      expect(judged(look({ spec: single, pods: [READY], router: both }))).toMatchObject({
        Progressing: "True Loading",
      });
    });

    test("waits for somebody also when no router serves", () => {
      const status = look({ pods: [READY], routers: 0, router: { pods: [crashed('{"msg":"no"}')], status: {} } });
      expect(judged(status)).toMatchObject({ Ready: "False Failed", Stalled: "True Failed" });
    });
  });

  test("with a store in its pod says what that means", () => {
    const status = look({ spec: { store: { ephemeral: true } }, pods: [READY] });
    expect(judged(status)).toMatchObject({ Ready: "True Ready", RouterReady: "True StoreEphemeral" });
  });

  test("scaled to 0 is as it is wanted", () => {
    expect(judged(look({}))).toMatchObject({ Ready: "True ScaledToZero", Progressing: "False Complete" });
  });

  test("is not complete while pods that nobody wants are there, or right after a change of what makes pods", () => {
    const written = (kind: string) => judged(look({ pods: [READY], input: { written: new Set([kind]) } })).Progressing;
    expect(written("StatefulSet")).toBe("True RollingOut");
    expect(written("Deployment")).toBe("True RollingOut");
    expect(written("Service")).toBe("False Complete");
    const waits = look({ pods: [READY], input: { awaited: new Set(["Service apex"]) } });
    expect(messageOf(waits, "Progressing")).toBe("Service apex of before is still about to go");
    const leaving: Pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "apex-1" } };
    const scaledDown = look({ pods: [READY], surplus: [leaving] });
    expect(judged(scaledDown)).toMatchObject({ Ready: "True Ready", Progressing: "True RollingOut" });
    expect(messageOf(scaledDown, "Progressing")).toBe("1 pods end");
  });

  test("is complete, and for the first time ready, when none of its objects is refused for now", () => {
    const unfinished = (before?: LLMPoolStatus) => look({ pods: [READY], input: { refused: true, before } });
    expect(judged(unfinished())).toMatchObject({ Ready: "False Loading", Progressing: "True RollingOut" });
    expect(messageOf(unfinished(), "Ready")).toBe("the API server refuses some writes for now: they are tried again");
    expect(judged(unfinished(look({ pods: [READY] })))).toMatchObject({
      Ready: "True Ready",
      Progressing: "True RollingOut",
    });
  });

  test("with pods of another revision rolls out, and serves meanwhile", () => {
    expect(judged(look({ pods: [READY], revision: "old" }))).toMatchObject({
      Ready: "True Ready",
      Progressing: "True RollingOut",
      Reconciling: "True RollingOut",
    });
  });

  test("is not complete while an object cannot be made, and says which", () => {
    const problems = [{ reason: "ApplyFailed" as const, message: "Service apex: range is full" }];
    const status = look({ pods: [READY], input: { problems } });
    expect(judged(status)).toMatchObject({ Ready: "False ApplyFailed", Progressing: "False ApplyFailed" });
    expect(messageOf(status, "Progressing")).toBe("Service apex: range is full");
  });

  test("whose object is somebody else's is stuck on that, whatever else is wrong", () => {
    const problems = [
      { reason: "ApplyFailed" as const, message: "quota" },
      { reason: "ObjectTaken" as const, message: "Service apex is there already" },
    ];
    const status = look({ pods: [READY], input: { problems } });
    expect(judged(status)).toMatchObject({ Ready: "False ObjectTaken", Stalled: "True ObjectTaken" });
  });

  test("of Packed pods is ready when its instances say so, not their pods", () => {
    const spec = { instances: 2, gpu: { mode: "Packed", instancesPerPod: 2 } };
    expect(judged(look({ spec, pods: [READY] }))).toMatchObject({ Ready: "False Loading" });
    const failed = { state: "Failed", restarts: 3, message: "went over its memory limit" } as const;
    const told = new Map<string, Told>([
      ["0", { state: "Ready", restarts: 1 }],
      ["1", failed],
    ]);
    const one = look({ spec, pods: [READY], input: { told } });
    expect(judged(one)).toMatchObject({ Ready: "False Degraded" });
    expect(one.instanceStatuses).toMatchObject([{ state: "Ready", restarts: 1 }, failed]);
    told.set("1", { state: "Ready" });
    expect(judged(look({ spec, pods: [READY], input: { told } }))).toMatchObject({ Ready: "True Ready" });
  });

  test("of Packed pods gives an autoscaler no selector, for it would take a pod for an instance", () => {
    const gpu = { mode: "Packed", instancesPerPod: 2 };
    expect(look({ spec: { instances: 2, gpu }, pods: [READY] })).not.toHaveProperty("selector");
    const variants = [{ name: "code", instances: 2, gpu }];
    expect(look({ spec: { variants }, pods: [READY] }).selector).toContain("llmpool.dev/variant=default");
  });

  test("of Packed pods is not complete, nor its model proven, before their processes are those of the edit", () => {
    const gpu = { mode: "Packed", instancesPerPod: 2 };
    const spec = { backend: "llama-cpp", model: { uri: "file:///new" }, instances: 2, gpu };
    const revision = planPool(makePool(spec)).variants[0]?.instances[0]?.revision ?? "";
    const running = (...revisions: (string | undefined)[]) => {
      const rows = revisions.map((one, i) => [`${i}`, { state: "Ready", ...(one && { revision: one }) }] as const);
      return look({ spec, pods: [READY], input: { told: new Map<string, Told>(rows) } });
    };
    // The processes of before serve, while the kubelet brings the edit.
    expect(judged(running("old", "old"))).toMatchObject({
      Ready: "True Ready",
      ModelAvailable: "Unknown Loading",
      Progressing: "True RollingOut",
    });
    expect(messageOf(running(revision, "old"), "Progressing")).toBe("1 instances are to be replaced");
    const complete = { ModelAvailable: "True Ready", Progressing: "False Complete" };
    expect(judged(running(revision, "old"))).toMatchObject({ ModelAvailable: "True Ready" });
    expect(judged(running(revision, revision))).toMatchObject(complete);
    // A supervisor of an earlier release tells none.
    expect(judged(running(undefined, undefined))).toMatchObject(complete);
  });
});

test("a condition's time moves when its status flips, and not with its words", () => {
  const first = look({ pods: [READY, LOADING] });
  const later = { now: "2026-01-01T00:01:00Z", before: first };
  const time = (status: LLMPoolStatus) => status.conditions?.find((c) => c.type === "Ready")?.lastTransitionTime;
  expect(time(look({ pods: [LOADING, LOADING], input: later }))).toBe("2026-01-01T00:00:00Z");
  expect(time(look({ pods: [READY, READY], input: later }))).toBe("2026-01-01T00:01:00Z");
});

describe("an instance's row", () => {
  const row = (told: Told, before?: LLMPoolStatus, pod = READY) =>
    look({ pods: [pod], input: { told: new Map([["0", told]]), before } }).instanceStatuses?.[0];

  test("has what it computes on, how long its warm-up took and how fast it is, in two digits", () => {
    const told = {
      state: "Ready",
      device: "NVIDIA H100 80GB HBM3",
      warmupSeconds: 1.8734,
      tokensPerSecond: 61.34,
    } as const;
    expect(row(told)).toEqual({
      id: "0",
      variant: "default",
      pod: "apex-0",
      node: "n1",
      state: "Ready",
      device: "NVIDIA H100 80GB HBM3",
      warmupSeconds: 1.9,
      tokensPerSecond: 61,
      restarts: 0,
    });
  });

  test("keeps its speed until it is a fifth away, so that an instance at work causes no writes", () => {
    const before = look({ pods: [READY], input: { told: new Map([["0", { state: "Ready", tokensPerSecond: 60 }]]) } });
    const speed = (tokensPerSecond: number) => row({ state: "Ready", tokensPerSecond }, before)?.tokensPerSecond;
    expect([50, 59, 71].map(speed)).toEqual([60, 60, 60]);
    expect([47, 73.4].map(speed)).toEqual([47, 73]);
  });

  test("says that it warms up, which its pod cannot tell; a pod that is ready is believed", () => {
    expect(row({ state: "WarmingUp" }, undefined, LOADING)?.state).toBe("WarmingUp");
    expect(row({ state: "Loading" }, undefined, LOADING)?.state).toBe("Loading");
    expect(row({ state: "WarmingUp" }, undefined, READY)?.state).toBe("Ready");
  });
});

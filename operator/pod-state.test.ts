import { expect, test } from "vitest";
import { keepPod } from "./caches.ts";
import type { Pod } from "./kinds.ts";
import { podState } from "./pod-state.ts";

type Status = NonNullable<Pod["status"]>;
type Container = NonNullable<Status["containerStatuses"]>[number];

const podOf = (status: Status, deletionTimestamp?: string): Pod => ({
  apiVersion: "v1",
  kind: "Pod",
  spec: { containers: [], nodeName: "n1" },
  metadata: { name: "apex-0", ...(deletionTimestamp !== undefined && { deletionTimestamp }) },
  status,
});

const instance = (part: Partial<Container>): Status => ({
  containerStatuses: [{ name: "instance", image: "", imageID: "", ready: false, restartCount: 0, ...part }],
});

/** Ready no more, by the word of the control plane: its kubelet's last one was that the containers are. */
const LOST: Status = {
  conditions: [
    { type: "Ready", status: "False" },
    { type: "ContainersReady", status: "True" },
  ],
};

const NOT_FOUND = `{"level":"info","msg":"listening"}\n{"level":"error","reason":"ModelNotFound","msg":"no model at /m: check model.uri"}\n`;

test.each([
  {
    name: "a ready one",
    status: { conditions: [{ type: "Ready", status: "True" }] },
    want: { state: "Ready", restarts: 0 },
  },
  { name: "one that loads", status: instance({ state: { running: {} } }), want: { state: "Loading", restarts: 0 } },
  {
    name: "one without a node",
    status: { conditions: [{ type: "PodScheduled", status: "False", message: "0/3 nodes" }] },
    want: { state: "Pending", reason: "Unschedulable", message: "0/3 nodes", restarts: 0 },
  },
  {
    name: "one on a node that is lost",
    status: LOST,
    want: {
      state: "Failed",
      reason: "NodeLost",
      message: expect.stringMatching(/^node n1 does not answer/),
      restarts: 0,
    },
  },
  {
    name: "an image that is not there",
    status: instance({ state: { waiting: { reason: "ImagePullBackOff", message: "no such image" } } }),
    want: { state: "Failed", reason: "ImagePullBackOff", message: "ImagePullBackOff: no such image", restarts: 0 },
  },
  {
    name: "a Secret that is not there",
    status: instance({
      state: { waiting: { reason: "CreateContainerConfigError", message: 'secret "hf" not found' } },
    }),
    want: { state: "Failed", message: 'CreateContainerConfigError: secret "hf" not found' },
  },
  {
    name: "a runtime that could not start, in its own words",
    status: instance({
      restartCount: 3,
      state: { waiting: { reason: "CrashLoopBackOff", message: "back-off 40s" } },
      lastState: { terminated: { exitCode: 1, reason: "Error", message: NOT_FOUND } },
    }),
    want: { state: "Failed", reason: "ModelNotFound", message: "no model at /m: check model.uri", restarts: 3 },
  },
  {
    name: "a process that was too big",
    status: instance({ state: { terminated: { exitCode: 137, reason: "OOMKilled" } } }),
    want: { state: "Failed", reason: "OutOfMemory", message: expect.stringContaining("resources.limits.memory") },
  },
  {
    name: "a crash without our words",
    status: instance({ state: { terminated: { exitCode: 3, message: "a\nPanic!\n" } } }),
    want: { state: "Failed", reason: "ExitCode", message: "it ended with exit code 3: Panic!" },
  },
  {
    name: "one that runs again after a crash",
    status: instance({ restartCount: 1, state: { running: {} }, lastState: { terminated: { exitCode: 1 } } }),
    want: { state: "Loading", restarts: 1 },
  },
  { name: "one that has nothing yet", status: {}, want: { state: "Pending", restarts: 0 } },
])("$name", ({ status, want }) => {
  expect(podState(podOf(status as Status))).toMatchObject(want);
});

test("one on a lost node stays lost when it is told to go, which nobody there hears", () => {
  expect(podState(podOf(LOST, "2026-01-01T00:00:00Z"))).toMatchObject({ state: "Failed", reason: "NodeLost" });
});

test("one that waits for a readiness gate is not lost, also by what is kept of it", () => {
  const pod = podOf(LOST);
  pod.spec = { containers: [], nodeName: "n1", readinessGates: [{ conditionType: "example.com/balanced" }] };
  expect(podState(keepPod(pod)).reason).toBeUndefined();
});

test("one that leaves drains, ready or not", () => {
  const status = { conditions: [{ type: "Ready", status: "True" }] };
  expect(podState(podOf(status, "2026-01-01T00:00:00Z")).state).toBe("Draining");
});

import type { V1StatefulSet } from "@kubernetes/client-node";
import { describe, expect, test } from "vitest";
import type { ModelFacts } from "../src/api/model-facts.ts";
import { ANNOTATIONS } from "../src/api/names.ts";
import type { ObjectOf } from "../src/kube/object.ts";
import { failedOfBefore, failsInOldImage } from "./former-release.ts";
import { keptRouterImage, type Observed } from "./gather.ts";
import type { Pod } from "./kinds.ts";
import type { ObservedLoad } from "./model-state.ts";

const container = (state: object) => ({
  ...{ name: "instance", image: "", imageID: "", ready: false, restartCount: 0, state },
});
const NOT_PULLED: Pod["status"] = {
  containerStatuses: [container({ waiting: { reason: "ImagePullBackOff", message: "not there" } })],
};
const LOADING: Pod["status"] = { containerStatuses: [container({ running: {} })] };
const LOST: Pod["status"] = {
  conditions: [
    { type: "Ready", status: "False" },
    { type: "ContainersReady", status: "True" },
  ],
};

const pod = (template: string, status: Pod["status"], revision = "wanted"): Pod => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name: "apex-0",
    labels: { "controller-revision-hash": template },
    annotations: { [ANNOTATIONS.revision]: revision },
  },
  ...(status && { status }),
});
const SET = { status: { updateRevision: "apex-new" } } as ObjectOf<V1StatefulSet>;

test.each([
  { name: "one whose image of before cannot be had", given: pod("apex-old", NOT_PULLED), want: true },
  { name: "one of the template of now", given: pod("apex-new", NOT_PULLED), want: false },
  { name: "one that loads in the image of before", given: pod("apex-old", LOADING), want: false },
  { name: "one on a lost node", given: pod("apex-old", LOST), want: false },
  {
    name: "one that the pool wants otherwise, which is the rollout's",
    given: pod("apex-old", NOT_PULLED, "former"),
    want: false,
  },
])("of an unchanged pool is replaced: $name: $want", ({ given, want }) => {
  expect(failedOfBefore([given], SET, "wanted")).toEqual(want ? [given] : []);
});

describe("a loader", () => {
  const load = (image: string, status: Pod["status"], facts?: ModelFacts) =>
    ({
      facts,
      pods: [pod("", status)],
      job: { spec: { template: { spec: { containers: [{ name: "loader", image }] } } } },
    }) as unknown as ObservedLoad;

  test("that fails in an image of before is made anew", () => {
    expect(failsInOldImage(load("wrong/llmpool", NOT_PULLED), "llmpool")).toBe(true);
  });

  test("that is at work, fails in the image of now or is not needed any more stays", () => {
    expect(failsInOldImage(load("wrong/llmpool", LOADING), "llmpool")).toBe(false);
    expect(failsInOldImage(load("llmpool", NOT_PULLED), "llmpool")).toBe(false);
    expect(failsInOldImage(load("wrong/llmpool", NOT_PULLED, {} as ModelFacts), "llmpool")).toBe(false);
  });
});

test("a router keeps its image while one of its pods serves, and no longer", () => {
  const router = (availableReplicas: number) =>
    ({
      router: {
        deployment: {
          metadata: { annotations: { [ANNOTATIONS.revision]: "r" } },
          spec: { template: { spec: { containers: [{ name: "router", image: "former" }] } } },
          status: { availableReplicas },
        },
      },
    }) as unknown as Observed;
  expect(keptRouterImage(router(1), "r")).toBe("former");
  expect(keptRouterImage(router(0), "r")).toBeUndefined();
  expect(keptRouterImage(router(1), "another")).toBeUndefined();
});

import { expect, onTestFinished } from "vitest";
import { RIGHTS, type Rule, WIDE_RIGHTS } from "../../operator/rights.ts";
import type { LLMPoolStatus } from "../../src/api/llmpool.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import type { Call } from "../support/audit.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { operatorAccount, startOperator } from "../support/operator.ts";
import { installPodMonitors, removePodMonitors } from "../support/pod-monitors.ts";

const cluster = await clusterForTests();
cluster.installCrd();

type Pool = KubeObject & { status?: LLMPoolStatus };

const pool = (spec: object = {}) => ({
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { name: "apex" },
  spec: { backend: "stub", instances: 2, drainSeconds: 0, store: { ephemeral: true }, ...spec },
});

/** Variants with what the others lack: a claim and a loader, and a ConfigMap for supervisors. */
const cached = {
  name: "cached",
  backend: "hf-cuda",
  model: { uri: "hf://org/cached", cache: { storage: "1Gi", storageClassName: "nowhere" } },
  instances: 1,
};
const packed = {
  name: "packed",
  backend: "hf-cuda",
  model: { uri: "hf://org/repo" },
  instances: 2,
  gpu: { mode: "Packed", instancesPerPod: 2, resourceClaimTemplateName: "card" },
};

/**
 * Rights that no call of the operator's shows: that to `finalizers` admission asks for (OwnerReferencesPermissionEnforcement), and the others it hands
 * on to each router.
 */
const UNSEEN = [
  "llmpools.llmpool.dev get",
  "llmpools.llmpool.dev/finalizers update",
  "endpointslices.discovery.k8s.io get",
  "endpointslices.discovery.k8s.io list",
  "endpointslices.discovery.k8s.io watch",
];

/** `resource verb`, as the audit log spells the resource. */
const granted = [...RIGHTS, ...WIDE_RIGHTS].flatMap(({ apiGroups, resources, verbs }) =>
  apiGroups.flatMap((group) =>
    resources.flatMap((name) => {
      const [resource, subresource] = name.split("/");
      const full = `${resource}${group && `.${group}`}${subresource ? `/${subresource}` : ""}`;
      return verbs.map((verb) => `${full} ${verb}`);
    }),
  ),
);

/** A patch that made its object needed the right to create it, too. */
const used = ({ resource, verb, code }: Call): string[] =>
  verb === "patch" && code === 201 ? [`${resource} patch`, `${resource} create`] : [`${resource} ${verb}`];

async function readyReason(namespace: string): Promise<string> {
  const { status, metadata } = await cluster.get<Pool>("llmp", "apex", namespace);
  const ready = status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.observedGeneration === metadata.generation ? `${ready?.reason}: ${ready?.message}` : "";
}

const untilReason = (namespace: string, reason: RegExp) =>
  eventually(String(reason), async () => reason.test(await readyReason(namespace)));

cluster.ownTest("the operator may do what it does, and nothing else", async () => {
  const [system, namespace] = [await cluster.namespace(), await cluster.namespace()];
  await cluster.addFakeNodes({ count: 1 });
  await installPodMonitors(cluster);
  onTestFinished(() => removePodMonitors(cluster));
  const calls = await cluster.recordCalls();
  startOperator({ kubeconfig: await operatorAccount(cluster, system, ""), ownNamespace: system });
  const mine = async () =>
    (await calls()).filter(
      ({ user, resource }) => user === `system:serviceaccount:${system}:llmpool` && resource !== "",
    );

  await cluster.apply([pool({ variants: [packed, cached] })], namespace);
  await eventually("the pool has its last object", () => cluster.get("podmonitor", "apex-router", namespace));
  await eventually("it asks why a claim has no volume", async () =>
    (await mine()).some(({ verb, resource }) => verb === "list" && resource === "events"),
  );
  await cluster.apply([pool({ contextTokens: 512 })], namespace);
  await untilReason(namespace, /^Ready: 2 of 2/);
  await eventually("what the variant had is gone", async () => {
    const left = [
      "get",
      "statefulsets,networkpolicies,configmaps,jobs",
      "--selector=llmpool.dev/pool=apex,llmpool.dev/variant!=default",
    ];
    return (await cluster.kubectl([...left, "--namespace", namespace, "--output=name"])) === "";
  });
  await eventually("an event is counted", async () => {
    await cluster.kubectl(["delete", "pod", "apex-0", "--namespace", namespace, "--ignore-not-found"]);
    await untilReason(namespace, /^Ready/);
    return (await mine()).some(({ verb, resource }) => verb === "patch" && resource.startsWith("events"));
  });

  await eventually("the Lease is renewed", async () =>
    (await mine()).some(({ verb, resource }) => verb === "update" && resource.startsWith("leases")),
  );

  const seen = await mine();
  expect(seen.filter(({ code }) => code === 403)).toEqual([]);
  const lease = seen.filter(({ resource }) => resource.startsWith("leases"));
  expect(new Set(lease.map(({ verb, name }) => `${verb} ${name}`))).toEqual(
    new Set(["get llmpool-operator", "create llmpool-operator", "update llmpool-operator"]),
  );
  const done = new Set(seen.filter((call) => !lease.includes(call)).flatMap(used));
  expect(granted.filter((right) => !done.has(right))).toEqual(UNSEEN);
  expect([...done].filter((right) => !granted.includes(right))).toEqual([]);
});

/** Whether the API server would let a user do this. */
async function may(user: string, verb: string, group: string, name: string): Promise<boolean> {
  const [resource, subresource] = name.split("/");
  const review = {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SubjectAccessReview",
    spec: { user, resourceAttributes: { group, resource, subresource, verb } },
  };
  const input = JSON.stringify(review);
  const answer = await cluster.kubectl(["create", "--filename", "-", "--output", "json"], { input });
  return (JSON.parse(answer) as { status: { allowed: boolean } }).status.allowed;
}

cluster.ownTest("nor can it do without the rights that no call shows, and what lacks is said", async () => {
  const system = await cluster.namespace();
  await cluster.addFakeNodes({ count: 1 });
  startOperator({ kubeconfig: await operatorAccount(cluster, system, ""), ownNamespace: system });
  const account = `system:serviceaccount:${system}:llmpool`;
  type Role = KubeObject & { rules: Rule[] };
  const role = await cluster.get<Role>("clusterrole", `${system}-llmpool`);
  const write = (rules: Rule[]) =>
    cluster.kubectl(["replace", "--filename", "-"], {
      input: JSON.stringify({ ...role, metadata: { name: role.metadata.name }, rules }),
    });
  const handedOn = /^ApplyFailed: Role apex: .*attempting to grant RBAC permissions not currently held/s;
  for (const [verb, group, resource, words] of [
    ["get", "llmpool.dev", "llmpools", handedOn],
    ["watch", "discovery.k8s.io", "endpointslices", handedOn],
    [
      "update",
      "llmpool.dev",
      "llmpools/finalizers",
      /^ApplyFailed: .*cannot set blockOwnerDeletion .* set finalizers on/s,
    ],
  ] as const) {
    const without = (verbs: string[]) => verbs.filter((one) => one !== verb);
    await write(
      role.rules
        .map((rule) => (rule.resources.includes(resource) ? { ...rule, verbs: without(rule.verbs) } : rule))
        .filter(({ verbs }) => verbs.length > 0),
    );
    await eventually("the API server has taken the role", async () => !(await may(account, verb, group, resource)));
    const namespace = await cluster.namespace();
    await cluster.apply([pool()], namespace);
    await untilReason(namespace, words);
    await write(role.rules);
    await untilReason(namespace, /^Ready/);
  }
});

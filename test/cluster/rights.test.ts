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

/** Rights that no call shows: each router gets the first two from the operator, and the third is for clusters with OwnerReferencesPermissionEnforcement. */
const UNSEEN = ["llmpools.llmpool.dev get", "llmpools.llmpool.dev/finalizers update", "pods get"];

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

/** Whether the API server would let a user get these. */
async function mayGet(user: string, resource: string): Promise<boolean> {
  const group = resource === "llmpools" ? "llmpool.dev" : "";
  const review = {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SubjectAccessReview",
    spec: { user, resourceAttributes: { group, resource, verb: "get" } },
  };
  const input = JSON.stringify(review);
  const answer = await cluster.kubectl(["create", "--filename", "-", "--output", "json"], { input });
  return (JSON.parse(answer) as { status: { allowed: boolean } }).status.allowed;
}

cluster.ownTest("nor can it do without the rights that it hands on to routers", async () => {
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
  for (const resource of ["llmpools", "pods"]) {
    await write(
      role.rules.map((rule) =>
        rule.resources.includes(resource) ? { ...rule, verbs: rule.verbs.filter((verb) => verb !== "get") } : rule,
      ),
    );
    await eventually("the API server has taken the role", async () => !(await mayGet(account, resource)));
    const namespace = await cluster.namespace();
    await cluster.apply([pool()], namespace);
    await untilReason(namespace, /^ApplyFailed: Role apex: .*attempting to grant RBAC permissions not currently held/s);
    await write(role.rules);
    await untilReason(namespace, /^Ready/);
  }
});

import { symlink } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished } from "vitest";
import { command } from "../../scripts/cluster/command.ts";
import { cli } from "../support/cli.ts";
import { clusterForTests } from "../support/cluster.ts";
import { operatorAccount } from "../support/operator.ts";
import { operate, pools, stub } from "../support/pools.ts";
import { tempDir } from "../support/temp-dir.ts";

const cluster = await clusterForTests();
cluster.installCrd();
const { untilCondition } = pools(cluster);

const run = (...args: string[]) => cli(args, { env: { KUBECONFIG: cluster.kubeconfig } });

cluster.ownTest(
  "llmpool status shows a pool of the cluster, the only one of a namespace without its name",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.addFakeNodes({ count: 1 });
    const none = await run("status", "--namespace", namespace);
    expect(none).toMatchObject({
      out: "",
      code: 1,
      err: expect.stringContaining(`no LLMPool in namespace ${namespace}`),
    });
    await operate(cluster, namespace);
    await cluster.apply([stub({ roles: [{ name: "planner", instance: 1 }] })], namespace);
    await untilCondition(namespace, "Ready", "True");
    const named = await run("status", "apex", "--namespace", namespace);
    expect(named).toMatchObject({ err: "", code: 0 });
    const [title, ...rows] = named.out.split("\n");
    expect(title).toBe(`pool ${namespace}/apex at http://apex.${namespace}.svc:8080: 2 of 2 instances ready`);
    expect(rows.find((row) => row.startsWith("1 "))).toMatch(/^1 +Ready +planner +apex-1 /);
    expect(await run("status", "--namespace", namespace)).toEqual(named);
    await cluster.apply([{ ...stub(), metadata: { name: "other" } }], namespace);
    expect((await run("status", "--namespace", namespace)).err).toContain("several pools: name one of apex, other");
    expect((await run("status", "nobody", "--namespace", namespace)).err).toContain(
      `no LLMPool nobody in namespace ${namespace}`,
    );
  },
);

cluster.ownTest("kubectl llmpool is llmpool, about the cluster that kubectl is about", async () => {
  const namespace = await cluster.namespace();
  await cluster.apply([stub()], namespace);
  // As npm installs it: a link whose name tells what it is called as.
  const plugin = join(await tempDir(), "kubectl-llmpool");
  await symlink(fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url)), plugin);
  const env = { ...process.env, KUBECONFIG: cluster.kubeconfig };
  const said = await command(process.execPath, [plugin, "status", "--namespace", namespace], { env });
  expect(said).toContain(
    `pool ${namespace}/apex: 0 of 2 instances ready\nno operator has looked at its newest spec yet`,
  );
});

cluster.ownTest("llmpool doctor says what a cluster has for pools, and what it lacks", async () => {
  const namespace = await cluster.namespace();
  await cluster.addFakeNodes({ count: 2, gpus: 8, product: "NVIDIA-H100-80GB-HBM3" });
  const doctor = async (...flags: string[]) => {
    const { out, code } = await run("doctor", "--cluster", "--output", "json", ...flags);
    const findings = JSON.parse(out) as { level: string; subject: string; detail: string; cure?: string }[];
    return { code, of: (subject: string) => findings.find((finding) => finding.subject === subject) };
  };
  const first = await doctor();
  expect(first.code).toBe(0);
  expect(first.of("cluster")).toMatchObject({ level: "ok", detail: expect.stringMatching(/^Kubernetes v1\./) });
  expect(first.of("kind")).toMatchObject({
    level: "ok",
    detail: expect.stringContaining("with the fields of this version"),
  });
  expect(first.of("operator")).toMatchObject({ level: "warn", cure: expect.stringContaining("helm install") });
  expect(first.of("rights")).toMatchObject({ level: "ok" });
  expect(first.of("GPUs")).toMatchObject({
    level: "ok",
    detail: "16 nvidia.com/gpu on 2 nodes (NVIDIA-H100-80GB-HBM3)",
  });
  expect(first.of("group kill")).toBeDefined();

  // Somebody who may only look after pools of one namespace.
  const kubeconfig = await operatorAccount(cluster, namespace, namespace);
  const limited = await doctor("--kubeconfig", kubeconfig, "--namespace", namespace);
  expect(limited.code).toBe(0);
  expect(limited.of("kind")).toMatchObject({ level: "ok", detail: expect.stringContaining("you may not see") });
  expect(limited.of("rights")).toMatchObject({
    level: "warn",
    detail: expect.stringMatching(/may not create, patch, delete/),
  });
  expect(limited.of("nodes")).toMatchObject({ level: "info", detail: expect.stringContaining("may not look") });

  // A kind of another version.
  onTestFinished(() => cluster.applyCrd());
  await cluster.kubectl([
    ...["patch", "crd", "llmpools.llmpool.dev", "--type=json"],
    ...[
      "--patch",
      '[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/stub"}]',
    ],
  ]);
  expect((await doctor()).of("kind")).toMatchObject({ level: "warn", cure: expect.stringContaining("helm upgrade") });
  await cluster.kubectl(["delete", "crd", "llmpools.llmpool.dev"]);
  expect((await doctor()).of("kind")).toMatchObject({ level: "fail", cure: expect.stringContaining("helm install") });
});

cluster.ownTest("llmpool doctor fails where no API server answers", async () => {
  const dir = await tempDir();
  const file = join(dir, "kubeconfig");
  await cluster.kubectl(["config", "set-cluster", "none", "--server=https://127.0.0.1:1", "--kubeconfig", file]);
  await cluster.kubectl(["config", "set-context", "none", "--cluster=none", "--kubeconfig", file]);
  await cluster.kubectl(["config", "use-context", "none", "--kubeconfig", file]);
  const { out, code } = await run("doctor", "--kubeconfig", file);
  expect(code).toBe(1);
  expect(out).toMatch(/^fail {2}cluster /);
});

cluster.nodeTest("the kubelet of a real node tells whether it kills a whole container", async () => {
  const { out } = await run("doctor", "--cluster");
  expect(out).toMatch(/^warn +group kill +\S+: on cgroup v2 .*\n +-> set singleProcessOOMKill: true/m);
});

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished } from "vitest";
import { command } from "../../scripts/cluster/command.ts";
import { clusterHome } from "../../scripts/cluster/home.ts";
import { down } from "../../scripts/cluster/lifecycle.ts";
import { startedIn } from "../../scripts/cluster/processes.ts";
import { remains } from "../../scripts/cluster/remove.ts";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";

const cluster = await clusterForTests();

// A second cluster beside the one of the other tests, so that it can be ended here.
const second = String((clusterHome(process.env).slot + 1) % 256);
const env = { ...process.env, LLMPOOL_TEST_CLUSTER: second };
const home = clusterHome(env);
const script = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** `npm run cluster ...` */
function run(...args: string[]): Promise<string> {
  onTestFinished(() => down(home, () => {}));
  return command(process.execPath, [script("../../scripts/cluster.ts"), ...args], { env });
}

/** A run of the tests, as far as the cluster can see. */
function holder(): ChildProcess {
  onTestFinished(() => down(home, () => {}));
  const child = spawn(process.execPath, [script("../support/cluster-holder.ts")], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return child;
}

async function up(child: ChildProcess): Promise<void> {
  if (child.stdout) await once(child.stdout, "data");
}

const nothingLeft = () => eventually("nothing is left", () => remains(home).length === 0);

cluster.ownTest(
  "down leaves no process, file, mount, interface, control group or setting of the machine behind",
  async () => {
    const before = machine();
    const said = await run("up");
    expect(said).toContain(`export KUBECONFIG=${join(home.run, "admin.kubeconfig")}`);
    if (cluster.node) await startPod();
    expect(await run("status")).toMatch(/^up at https:.*\nheld by hand\n/);
    expect(remains(home)).not.toEqual([]);
    await run("down");
    expect(remains(home)).toEqual([]);
    expect(machine()).toEqual(before);
    expect(await run("status")).toBe("down\n");
  },
);

cluster.ownTest("a second up gives the cluster that runs, also while the first one starts it", async () => {
  const kubeconfigs = await Promise.all([run("up"), run("up")]);
  const [first] = startedIn(home.run);
  expect(await run("up")).toBe(kubeconfigs[0]?.replace(/^another run .*\n/, ""));
  expect(startedIn(home.run)[0]).toEqual(first);
  await run("down");
});

cluster.ownTest("the cluster ends with the process that holds it, killed or not", async () => {
  const child = holder();
  await up(child);
  child.kill("SIGKILL");
  await nothingLeft();
});

cluster.ownTest("a start that is killed in its middle leaves nothing behind", async () => {
  const child = holder();
  await eventually("the API server has been started", () => existsSync(join(home.run, "started", "kube-apiserver")));
  child.kill("SIGKILL");
  await nothingLeft();
});

cluster.ownTest("what is left when the keeper was killed too is removed by the next command", async () => {
  const child = holder();
  await up(child);
  const keeper = startedIn(home.run).find(({ name }) => name === "keeper");
  process.kill(keeper?.pid ?? 0, "SIGKILL");
  child.kill("SIGKILL");
  await once(child, "exit");
  expect(remains(home)).not.toEqual([]);
  expect(await run("status")).toBe("removed what an earlier cluster has left\ndown\n");
  expect(remains(home)).toEqual([]);
});

cluster.ownTest("a cluster that lost a part is replaced by the next up", async () => {
  await run("up");
  const etcd = startedIn(home.run).find(({ name }) => name === "etcd");
  process.kill(etcd?.pid ?? 0, "SIGKILL");
  await run("up");
  expect(startedIn(home.run).every(({ alive }) => alive)).toBe(true);
  expect(startedIn(home.run).find(({ name }) => name === "etcd")?.pid).not.toBe(etcd?.pid);
  await run("down");
});

/** What of this machine a node could change for everyone. */
function machine(): Record<string, string> {
  const settings = ["net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];
  const folders = [
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/containers",
    "/var/log/pods",
    "/etc/cni",
    "/usr/libexec/kubernetes",
  ];
  const mounts = readFileSync("/proc/self/mounts", "utf8").split("\n");
  return {
    ...Object.fromEntries(settings.map((name) => [name, readFileSync(`/proc/sys/${name}`, "utf8")])),
    ...Object.fromEntries(folders.map((dir) => [dir, String(existsSync(dir))])),
    mounts: mounts.filter((line) => line.includes(home.run) || line.includes("kubelet")).join("\n"),
  };
}

/** With a pod there are a container, its mounts and its control group to be removed. */
async function startPod(): Promise<void> {
  const { programs, kubeconfig } = JSON.parse(readFileSync(join(home.run, "cluster.json"), "utf8")) as {
    programs: { kubectl: string };
    kubeconfig: string;
  };
  const kubectl = (...args: string[]) => command(programs.kubectl, ["--kubeconfig", kubeconfig, ...args]);
  await eventually("pods are admitted", () =>
    kubectl("run", "idle", "--image", cluster.baseImage, "--image-pull-policy=Never", "--", "sleep", "infinity"),
  );
  await kubectl("wait", "--for=condition=Ready", "pod/idle", "--timeout=60s");
}

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, onTestFailed, onTestFinished, test } from "vitest";
import { type CommandOptions, command } from "../../scripts/cluster/command.ts";
import { clusterForRun, type ForTests, type TestFacts } from "../../scripts/cluster/for-tests.ts";
import { clusterHome, type Home, networkOf } from "../../scripts/cluster/home.ts";
import { BASE_IMAGE, buildImage, type ImageSource } from "../../scripts/cluster/images.ts";
import { lock } from "../../scripts/cluster/lock.ts";
import { inNode, killKubelet } from "../../scripts/cluster/node.ts";
import { startedIn } from "../../scripts/cluster/processes.ts";
import { Unavailable } from "../../scripts/cluster/programs.ts";
import { type Call, recordCalls, recordWrites } from "./audit.ts";
import { eventually } from "./eventually.ts";
import { deviceClass, type FakeNodes, fakeNode, hasCards, resourceSlice } from "./fake-nodes.ts";
import { SecondApiServer } from "./second-api-server.ts";

type Body = () => unknown;

const CRD = fileURLToPath(new URL("../../crds/llmpools.llmpool.dev.yaml", import.meta.url));

/**
 * The cluster for the tests of one file; use it as `const cluster = await clusterForTests()` at the top. It runs already, or is started now,
 * and ends with this run of the tests. Where none can be had, `test` and its like skip by name and say what would enable them.
 */
export async function clusterForTests(): Promise<TestCluster> {
  const { run } = clusterHome(process.env);
  // Nodes, kinds and the like belong to the whole cluster, so the test files of this machine use it one after another.
  const turn = await lock(`${run}.tests.lock`, () =>
    console.log("other tests use the cluster; waiting for their file to end"),
  );
  afterAll(() => turn.close());
  // The worker goes with its file; the process that runs the tests is its parent.
  return new TestCluster(await clusterForRun(process.env, process.ppid, console.log));
}

export class TestCluster {
  readonly #home: Home;
  readonly #facts: TestFacts | undefined;
  readonly #lacking: string;
  /** Namespaces of the test that runs. */
  readonly #ofTest: string[] = [];
  readonly #leaving: string[] = [];

  constructor({ home, facts, lacking }: ForTests) {
    this.#home = home;
    this.#facts = facts;
    this.#lacking = lacking;
    afterAll(() => this.#namespacesGone());
  }

  /** A test that any cluster can run. */
  test(name: string, body: Body, timeoutMs?: number): void {
    this.#test(name, this.#facts !== undefined, "a Kubernetes", body, timeoutMs);
  }

  /** A test with fake nodes or the audit log, which only a cluster of ours has. */
  ownTest(name: string, body: Body, timeoutMs?: number): void {
    this.#test(name, this.#own, "a cluster of its own", body, timeoutMs);
  }

  /** A test whose pods really run. */
  nodeTest(name: string, body: Body, timeoutMs?: number): void {
    this.#test(name, this.node, "a real node", body, timeoutMs);
  }

  #test(name: string, can: boolean, what: string, body: Body, timeoutMs: number | undefined): void {
    if (can) test(name, body, timeoutMs);
    else test.skip(`${name} (needs ${what}: ${this.#lacking})`, body);
  }

  /** Whether there is a cluster at all, for what must be set up before the tests. */
  get available(): boolean {
    return this.#facts !== undefined;
  }

  /** Whether it is ours, not the user's: what tools keep of it goes with it. */
  get #own(): boolean {
    return this.#facts?.auditLog !== undefined;
  }

  /** Whether pods really run. */
  get node(): boolean {
    return this.#facts?.node !== undefined;
  }

  /** Path of a kubeconfig of the cluster's administrator. */
  get kubeconfig(): string {
    return this.#have.kubeconfig;
  }

  /** Address of this machine that pods of the real node reach. They reach nothing beyond it. */
  get hostAddress(): string {
    const { node } = this.#have;
    if (!node) throw new Unavailable(this.#lacking);
    return node.hostAddress;
  }

  /** For the BASE argument of an image that Node runs in. */
  readonly baseImage = BASE_IMAGE;

  /** Runs kubectl and returns what it prints; throws `CommandError` with what it said when it fails. */
  kubectl(args: readonly string[], options: CommandOptions = {}): Promise<string> {
    const { kubeconfig, programs } = this.#have;
    const cache = this.#own ? ["--cache-dir", join(this.#home.run, "kubectl-cache")] : [];
    return command(programs.kubectl, ["--kubeconfig", kubeconfig, ...cache, ...args], options);
  }

  /** Runs helm and returns what it prints; throws `CommandError` with what it said when it fails. */
  helm(args: readonly string[], options: CommandOptions = {}): Promise<string> {
    const { kubeconfig, programs } = this.#have;
    const dir = join(this.#home.run, "helm");
    const homes = this.#own ? { HELM_CACHE_HOME: dir, HELM_CONFIG_HOME: dir, HELM_DATA_HOME: dir } : {};
    return command(programs.helm, args, {
      ...options,
      env: { ...process.env, ...homes, KUBECONFIG: kubeconfig, ...options.env },
    });
  }

  /** Applies objects, server-side; those without a namespace of their own go to `namespace`. */
  async apply(objects: readonly unknown[], namespace = "default"): Promise<void> {
    const list = { apiVersion: "v1", kind: "List", items: objects };
    const args = ["apply", "--server-side", "--namespace", namespace, "--filename", "-"];
    await this.kubectl(args, { input: JSON.stringify(list) });
  }

  /** An object as the API server has it. */
  async get<T>(kind: string, name: string, namespace = "default"): Promise<T> {
    return JSON.parse(await this.kubectl(["get", kind, name, "--namespace", namespace, "--output", "json"])) as T;
  }

  /** Installs the LLMPool kind for the tests of this file; to be called at its top. The kind goes with all its objects after them. */
  installCrd(): void {
    if (!this.available) return;
    beforeAll(() => this.applyCrd());
    afterAll(() => this.kubectl(["delete", "--filename", CRD]));
  }

  /** Makes the LLMPool kind what these sources say. */
  async applyCrd(): Promise<void> {
    await this.kubectl(["apply", "--server-side", "--force-conflicts", "--filename", CRD]);
    // A kind that is quite new has no conditions yet, of which kubectl makes an error.
    await eventually("the LLMPool kind is served", () =>
      this.kubectl(["wait", "--for=condition=Established", "--filename", CRD]),
    );
  }

  /** A new namespace, deleted with all in it when the test ends. When the test fails, what is in it is printed first. */
  async namespace(): Promise<string> {
    const name = await this.longNamespace(onTestFinished);
    this.#ofTest.push(name);
    onTestFailed(() => this.show(name));
    return name;
  }

  /** A new namespace for several tests; `atEnd` is given what deletes it, with all in it. */
  async longNamespace(atEnd: (undo: () => Promise<void>) => void): Promise<string> {
    const name = `test-${randomBytes(4).toString("hex")}`;
    await this.kubectl(["create", "namespace", name]);
    atEnd(() => this.#removeNamespace(name));
    return name;
  }

  /** Prints pods and events of a namespace, for who wonders why a test failed. */
  async show(namespace: string): Promise<void> {
    const shown = await this.kubectl(["get", "pods,events", "--namespace", namespace, "--output", "wide"]).catch(
      String,
    );
    console.error(`in the namespace of the failed test:\n${shown}`);
  }

  async #removeNamespace(name: string): Promise<void> {
    if (this.#leaving.includes(name)) return;
    this.#leaving.push(name);
    await this.kubectl(["delete", "namespace", name, "--wait=false"]);
    // Without waiting for pods that drain: nobody looks at them any more.
    await this.kubectl(["delete", "pods", "--all", "--namespace", name, "--grace-period=1", "--wait=false"]);
  }

  /** A namespace takes five seconds to go, which the next test need not wait for; the last one of the file does. */
  async #namespacesGone(): Promise<void> {
    const names = this.#leaving.splice(0);
    if (names.length === 0) return;
    try {
      await this.kubectl(["wait", "--for=delete", "--timeout=150s", ...names.map((name) => `namespace/${name}`)]);
    } catch (cause) {
      const why = ["--output", "jsonpath={.items[*].status.conditions[*].message}", "--ignore-not-found"];
      const left = await this.kubectl(["get", "namespaces", ...names, ...why]);
      throw new Error(`namespaces of these tests do not go away: ${left}`, { cause });
    }
  }

  /**
   * Adds nodes that KWOK plays, whose pods are Ready as soon as they are placed; removed when the test ends. Returns their names. While there
   * are fake nodes without cards, the real node takes no new pods, so that all go to the fake ones.
   */
  async addFakeNodes(wanted: FakeNodes): Promise<string[]> {
    const { node } = this.#have;
    if (node && !hasCards(wanted)) await this.cordon();
    const prefix = `fake-${randomBytes(3).toString("hex")}`;
    const names = Array.from({ length: wanted.count }, (_, i) => `${prefix}-${i}`);
    onTestFinished(() => this.#removeFakeNodes(names));
    // Not server-side: that leaves out the status, where a node's resources are.
    const create = ["create", "--filename", "-"];
    const slices = wanted.devices ? names.map((name) => resourceSlice(name, wanted)) : [];
    const items = [...names.map((name) => fakeNode(name, wanted)), ...slices];
    if (wanted.devices) await this.apply([deviceClass]);
    await this.kubectl(create, { input: JSON.stringify({ apiVersion: "v1", kind: "List", items }) });
    await this.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", ...names.map((name) => `node/${name}`)]);
    return names;
  }

  /** Pods first, while someone plays their end; and before them their namespaces, or they would be made anew on the real node. */
  async #removeFakeNodes(names: string[]): Promise<void> {
    for (const namespace of this.#ofTest.splice(0)) await this.#removeNamespace(namespace);
    await this.kubectl(["cordon", ...names]);
    for (const name of names) {
      const on = ["--all-namespaces", "--field-selector", `spec.nodeName=${name}`];
      await this.kubectl(["delete", "pods", ...on, "--grace-period=0", "--force"]);
    }
    await this.kubectl(["delete", "nodes", ...names]);
    await this.kubectl(["delete", "resourceslices", "--ignore-not-found", ...names.map((name) => `${name}-gpu`)]);
  }

  /** Builds an image, if anything of it changed, and brings it onto the real node. Pods use it with `imagePullPolicy: Never`. */
  async buildImage(source: ImageSource): Promise<void> {
    if (!this.node) throw new Unavailable(this.#lacking);
    await buildImage(this.#home, source);
  }

  /** Keeps new pods from the real node until the returned function is called, or the test ends. */
  async cordon(): Promise<() => Promise<void>> {
    const { node } = this.#have;
    if (!node) throw new Unavailable(this.#lacking);
    const uncordon = async () => {
      await this.kubectl(["uncordon", node.name]);
    };
    onTestFinished(uncordon);
    await this.kubectl(["cordon", node.name]);
    return uncordon;
  }

  /** Gives this machine further addresses, until the test ends: for what a test itself serves as a pod. */
  async addAddresses(count: number): Promise<string[]> {
    if (!this.node) throw new Unavailable(this.#lacking);
    const { link } = networkOf(this.#home);
    const addresses = Array.from({ length: count }, (_, i) => `10.196.${this.#home.slot}.${i + 1}`);
    const change = (verb: string, ip: string) => command("ip", ["address", verb, `${ip}/32`, "dev", link]);
    onTestFinished(async () => {
      for (const ip of addresses) await change("del", ip);
    });
    for (const ip of addresses) await change("replace", ip);
    return addresses;
  }

  /** Gives the real node cards, as a device plugin would, and returns what takes them away. */
  async addCards(count: number): Promise<() => Promise<void>> {
    const { node } = this.#have;
    if (!node) throw new Unavailable(this.#lacking);
    const patch = async (op: object) => {
      const args = ["patch", "node", node.name, "--subresource=status", "--type=json", "--patch"];
      await this.kubectl([...args, JSON.stringify([{ path: "/status/capacity/nvidia.com~1gpu", ...op }])]);
    };
    await patch({ op: "add", value: String(count) });
    return () => patch({ op: "remove" });
  }

  /** Kills the first process of a container of the real node, as it would die by itself. `id` is what a pod's status says. */
  async killContainer(id: string): Promise<void> {
    const task = ["task", "kill", "--signal", "SIGKILL", id.replace("containerd://", "")];
    await inNode(this.#home, "ctr", ["--namespace", "k8s.io", ...task]);
  }

  /** Kills the real node's kubelet, not its pods. Returns what starts another and waits until the node is Ready; at the latest that is done when the test ends. */
  killKubelet(): () => Promise<void> {
    const { node } = this.#have;
    if (!node) throw new Unavailable(this.#lacking);
    let start: (() => void) | undefined = killKubelet(this.#home);
    const revive = async () => {
      start?.();
      start = undefined;
      await this.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", `node/${node.name}`]);
      await eventually("nothing is kept from the node any more", async () => {
        const { spec } = await this.get<{ spec: { taints?: { key: string }[] } }>("node", node.name);
        return !spec.taints?.some(({ key }) => /unreachable|not-ready/.test(key));
      });
    };
    onTestFinished(revive);
    return revive;
  }

  /** Makes the API server answer nobody until the returned function is called, or the test ends. */
  pauseApiServer(): () => void {
    const { pid } = startedIn(this.#home.run).find(({ name }) => name === "kube-apiserver") ?? {};
    if (!this.#own || pid === undefined) throw new Unavailable(this.#lacking);
    const goOn = () => void process.kill(pid, "SIGCONT");
    onTestFinished(goOn);
    process.kill(pid, "SIGSTOP");
    return goOn;
  }

  /** Starts another API server on the same etcd, until the test ends: one that can be held back in the past, and cut off. */
  async secondApiServer(): Promise<SecondApiServer> {
    const { kubeconfig, apiServer } = this.#have;
    if (!apiServer) throw new Unavailable(this.#lacking);
    const second = await SecondApiServer.start(this.#home, { kubeconfig, apiServer });
    onTestFinished(() => second[Symbol.asyncDispose]());
    return second;
  }

  /** Records, from now on, every write that anyone but the cluster's own parts makes. Call what it returns to see them. */
  recordWrites(): Promise<() => Promise<Call[]>> {
    return recordWrites(this.#auditLog);
  }

  /** Records the same, and what service accounts read. */
  recordCalls(): Promise<() => Promise<Call[]>> {
    return recordCalls(this.#auditLog);
  }

  get #auditLog(): string {
    const { auditLog } = this.#have;
    if (auditLog === undefined) throw new Unavailable(this.#lacking);
    return auditLog;
  }

  get #have(): TestFacts {
    if (!this.#facts) throw new Unavailable(this.#lacking);
    return this.#facts;
  }
}

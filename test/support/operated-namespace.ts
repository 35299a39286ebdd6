import { isDeepStrictEqual } from "node:util";
import { expect, onTestFinished } from "vitest";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { MANAGER } from "../../operator/render/names.ts";
import type { LLMPoolStatus } from "../../src/api/llmpool.ts";
import type { Credentials } from "../../src/kube/credentials.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { aheadOfReality } from "./ahead.ts";
import type { TestCluster } from "./cluster.ts";
import { isAtRest } from "./conditions.ts";
import { eventually } from "./eventually.ts";
import type { Seen } from "./fake-kube.ts";
import { FaultProxy, nameOfWrite } from "./fault-proxy.ts";
import { operatorToken } from "./operator.ts";
import { type ChildOptions, OperatorProcess } from "./operator-process.ts";
import { stub } from "./pools.ts";
import { NUDGE, type World } from "./world.ts";

const POOL = "apex";

type Pool = KubeObject & { status?: LLMPoolStatus };

/** Where a run stands, to be compared with that of another run. */
export interface Outcome {
  state: Record<string, unknown>;
  /** How often each object but pods was made since the life of the pool began. */
  made: Record<string, number>;
  /** How many pods of each name the operator has deleted since then. */
  deleted: Record<string, number>;
}

/** A namespace with an operator of its own, as a process behind a fault proxy, and the pool `apex`. */
export class OperatedNamespace {
  readonly name: string;
  readonly proxy: FaultProxy;
  readonly #world: World;
  readonly #real: Credentials;
  readonly #token: string;
  #operator: OperatorProcess | undefined;
  #nudges = 0;
  /** What its operators have written, those that stood by too. */
  readonly #written: Seen[] = [];
  #writesBefore = 0;
  #madeBefore: Record<string, number> = {};
  #uidsBefore = new Set<string>();
  /** What statuses said that was not so. */
  readonly lies: string[] = [];

  private constructor(name: string, proxy: FaultProxy, world: World, token: string, real: Credentials) {
    this.#real = real;
    this.name = name;
    this.proxy = proxy;
    this.#world = world;
    this.#token = token;
    this.#listen(proxy);
  }

  #listen(proxy: FaultProxy): void {
    proxy.onWrite = async (call) => {
      this.#written.push(call);
      if (!call.path.endsWith("/status")) return;
      const { metadata, status } = JSON.parse(call.body) as Pool;
      this.lies.push(...(await aheadOfReality(this.#world.client, { ...metadata, namespace: this.name }, status)));
    };
  }

  /** Made for this test, and gone after it. */
  static async make(cluster: TestCluster, real: Credentials, world: World): Promise<OperatedNamespace> {
    const name = await cluster.namespace();
    const proxy = await FaultProxy.start(real);
    const made = new OperatedNamespace(name, proxy, world, await operatorToken(cluster, name), real);
    onTestFinished(async () => {
      await made.#operator?.kill();
      await proxy.close();
    });
    return made;
  }

  /** Starts the operator and waits until it leads. */
  async operate(): Promise<OperatorProcess> {
    const operator = this.start();
    await operator.whenSynced();
    await operator.whenLeading();
    return operator;
  }

  /** Starts the operator, and waits for nothing. */
  start(options: Pick<Partial<ChildOptions>, "level"> = {}): OperatorProcess {
    const where = { server: this.proxy.url, token: this.#token, namespace: this.name };
    this.#operator = new OperatorProcess({ ...where, ...options });
    return this.#operator;
  }

  /**
   * Starts another operator, through a proxy of its own, and waits until its caches are complete; it is killed when the test ends.
   * @param real the API server that it talks to; by default that of the first
   */
  async standBy(real = this.#real): Promise<{ proxy: FaultProxy; operator: OperatorProcess }> {
    const proxy = await FaultProxy.start(real);
    this.#listen(proxy);
    const operator = new OperatorProcess({ server: proxy.url, token: this.#token, namespace: this.name });
    onTestFinished(async () => {
      await operator.kill();
      await proxy.close();
    });
    await operator.whenSynced();
    return { proxy, operator };
  }

  /** Another takes over: this process goes on being asked. */
  takeOver(operator: OperatorProcess): void {
    this.#operator = operator;
  }

  /** Kills the operator. Its Lease would run out after 15 s. */
  async killOperator(): Promise<void> {
    await this.operator.kill();
    await this.#world.client.delete(RESOURCES.leases, { namespace: this.name, name: `${MANAGER}.${this.name}` });
  }

  get operator(): OperatorProcess {
    if (!this.#operator) throw new Error("no operator was started");
    return this.#operator;
  }

  /** Writes of its operators that change something of a pool or tell of it, without their Lease. */
  get writes(): string[] {
    return this.#written.map(nameOfWrite).filter((name) => !name.includes(" leases/"));
  }

  /** Kills the operator before or after its n-th write of this name from now on. Resolves with a successor that leads. */
  killAt(write: string, nth: number, side: "before" | "after"): { done: () => boolean; succeeded: Promise<unknown> } {
    let count = 0;
    let done = false;
    const succeeded = this.killWhen((call) => nameOfWrite(call) === write && ++count === nth, side).then(async () => {
      done = true;
      await this.killOperator();
      await this.operate();
    });
    // Whoever waits for it hears of it.
    succeeded.catch(() => {});
    return { done: () => done, succeeded };
  }

  /** Kills the operator before or after the next write that this is true of. Resolves when it is killed; its Lease stays as it is. */
  killWhen(when: (call: Seen) => boolean, side: "before" | "after"): Promise<void> {
    const killed = Promise.withResolvers<void>();
    const kill = () => {
      this.operator.signal("SIGKILL");
      killed.resolve();
    };
    this.proxy.faults.length = 0;
    this.proxy.fail({
      when: (call) => call.method !== "GET" && when(call),
      times: 1,
      what: side === "before" ? { before: kill } : { after: kill },
    });
    return killed.promise;
  }

  /** A new life of the pool begins. */
  async create(spec: object = {}): Promise<void> {
    this.#madeBefore = this.#world.made(this.name);
    this.#uidsBefore = this.#world.uids(this.name);
    this.#writesBefore = this.#written.length;
    const metadata = { namespace: this.name, name: POOL };
    await this.#seen(await this.#world.client.create<KubeObject>({ ...stub(spec), metadata }));
  }

  async edit(spec: object): Promise<void> {
    await this.#seen(await this.#world.client.merge(LLMPOOLS, { namespace: this.name, name: POOL }, { spec }));
  }

  /** What is asked of the world from now on is not from before this change of the pool. */
  async #seen({ metadata: { uid, generation = 0 } }: KubeObject): Promise<void> {
    await eventually("the change is seen", () => {
      const seen = this.pool?.metadata;
      return seen?.uid === uid && (seen?.generation ?? 0) >= generation;
    });
  }

  /** The pool as it is stored. */
  get pool(): Pool | undefined {
    return this.#world.objects(this.name).find(({ kind, metadata }) => kind === "LLMPool" && metadata.name === POOL) as
      | Pool
      | undefined;
  }

  async delete(): Promise<void> {
    await this.#world.client.delete(LLMPOOLS, { namespace: this.name, name: POOL }, { propagation: "Background" });
  }

  outcome(): Outcome {
    const made = Object.entries(this.#world.made(this.name)).map(
      ([name, times]) => [name, times - (this.#madeBefore[name] ?? 0)] as const,
    );
    const deleted = new Set(this.#written.slice(this.#writesBefore).flatMap(podDeletion));
    // The deletion of a pod of before is refused.
    const ofNow = [...deleted].filter((pod) => !this.#uidsBefore.has(pod.split(" ")[1] ?? ""));
    const byName = Map.groupBy(ofNow, (pod) => pod.split(" ")[0] ?? "");
    return {
      state: this.#world.state(this.name),
      // KWOK ends a pod by its name alone, and when it does so twice the next pod of that name goes too.
      made: Object.fromEntries(made.filter(([name, times]) => times > 0 && !name.startsWith("Pod/"))),
      deleted: Object.fromEntries([...byName].map(([name, all]) => [name, all.length] as const).sort()),
    };
  }

  /** Waits until the namespace is what it was in another run. */
  async becomes({ state }: Outcome): Promise<void> {
    try {
      await eventually("the end of the undisturbed run", () => isDeepStrictEqual(this.outcome().state, state));
    } catch (error) {
      expect(this.outcome().state).toEqual(state);
      throw error;
    }
  }

  /** Waits until the pool is Ready and at rest. */
  async untilRest(): Promise<void> {
    await eventually("the pool is at rest", () => this.pool !== undefined && isAtRest(this.pool));
  }

  /** Makes the operator look at the pool again and again, until it writes nothing when it does. What it wrote at first may still be on its way. */
  async untilQuiet(): Promise<void> {
    const rounds: string[][] = [];
    for (let round = 0; round < 5; round++) {
      const before = this.writes.length;
      for (let time = 0; time < 2; time++) await this.operator.looks(() => this.nudge());
      rounds.push(this.writes.slice(before));
      if (rounds.at(-1)?.length === 0) return;
    }
    throw new Error(`an operator that has nothing to do writes on: ${JSON.stringify(rounds)}`);
  }

  /** Touches the pool, so that the operator looks at it. */
  async nudge(): Promise<void> {
    const place = { namespace: this.name, name: POOL };
    await this.#world.client.merge(LLMPOOLS, place, { metadata: { annotations: { [NUDGE]: String(++this.#nudges) } } });
  }
}

/** `apex-0 <uid>`: two deletions of one pod are one. */
function podDeletion({ method, path, body }: Seen): string[] {
  const [, name] = /\/pods\/([^/]+)$/.exec(path) ?? [];
  if (method !== "DELETE" || name === undefined) return [];
  const { preconditions } = JSON.parse(body) as { preconditions?: { uid?: string } };
  return [`${name} ${preconditions?.uid ?? "whoever has the name"}`];
}

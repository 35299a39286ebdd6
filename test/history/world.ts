import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { instanceConfig } from "../support/process-spec.ts";
import { RedisServer } from "../support/redis.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { AppendOnlyFile } from "./append-only-file.ts";
import type { Entry, Run } from "./history.ts";
import type { CountLine, InstanceChildConfig } from "./instance-child.ts";
import type { Child, Nursery } from "./processes.ts";
import type { Random } from "./random.ts";
import type { Clocks, RouterConfig } from "./router-child.ts";

const ROUTERS = 3;
const INSTANCES = 3;
const TOKEN = "token-of-the-history";
export const TENANTS = ["ada", "bob", "cyd"];
export const ROLES = ["planner", "coder", "critic"];

/** How long routers get to hear from every instance before they are asked anything: at the start, and in the middle of faults. */
const READY_MS = 30_000;
const READY_AGAIN_MS = 3_000;
/** The routers ask every second who is there; on a busy machine the answer takes its time. */
const NOTICED_MS = 10_000;

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

export interface RouterSlot {
  child: Child | undefined;
  url: string;
  /** To Redis, and to each instance. */
  wire: TcpProxy;
  wires: TcpProxy[];
  /** How often it was killed. */
  kills: number;
  /** It is cut off from Redis for so long that no other could begin in its place. */
  isolated: boolean;
}

export interface InstanceSlot {
  id: string;
  child: Child | undefined;
  counts: string;
}

export interface WorldOptions {
  seed: number;
  random: Random;
  nursery: Nursery;
  mutant: string | undefined;
}

/** Everything of one run: a Redis, three routers and three instances, each a process, with a wire between any two of them that can be cut. */
export class World implements AsyncDisposable {
  readonly redis: RedisServer;
  readonly file: AppendOnlyFile;
  readonly routers: RouterSlot[] = [];
  readonly instances: InstanceSlot[] = [];
  /** What was seen beside the store, in its order. */
  readonly seen: Entry[] = [];
  readonly #options: WorldOptions;
  readonly #dir = mkdtempSync(join(tmpdir(), "llmpool-history-"));
  readonly #stack = new AsyncDisposableStack();
  readonly #spec: object;
  readonly #keys: Record<string, string>;
  readonly #clocks: Clocks = { server: 0, wall: 0 };

  private constructor(options: WorldOptions, redis: RedisServer) {
    const { seed, random } = options;
    this.#options = options;
    this.#stack.defer(() => rmSync(this.#dir, { recursive: true, force: true }));
    this.redis = this.#stack.use(redis);
    const limits = {
      pool: random.between(8_000, 30_000),
      key: random.between(4_000, 12_000),
      roles: { coder: random.between(600, 2_000) },
    };
    this.#spec = {
      ...{
        instances: INSTANCES,
        contextTokens: 256,
        sessionsPerInstance: 4,
        requestTimeoutSeconds: 10,
        rebindAfterSeconds: 1,
      },
      roles: [{ name: "planner", instance: 0 }, { name: "coder" }, { name: "critic" }],
      budgets: { episodeTokens: random.between(1_500, 4_000), roleTokens: limits.roles, poolTokensPerDay: limits.pool },
      router: { replicas: ROUTERS, queuePerInstance: 64, auth: { mode: "ApiKey", secretName: "keys" } },
      store: { redisSecretRef: { name: "redis", key: "url" } },
    };
    this.#keys = Object.fromEntries(
      TENANTS.map((name) => {
        const sha256 = createHash("sha256").update(keyOf(name)).digest("hex");
        const scopes = ["inference", "read", "admin"];
        return [name, JSON.stringify({ sha256, scopes, tokens: limits.key, windowSeconds: 86_400 })];
      }),
    );
    this.file = this.#stack.use(new AppendOnlyFile(redis.appendOnlyFile, `{llmpool:history/${seed}}:`, limits));
  }

  static async start(options: WorldOptions): Promise<World> {
    const world = new World(options, await RedisServer.start());
    options.nursery.adopt(world);
    try {
      await world.#start();
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Notes a fault at this moment. */
  note(what: string): void {
    this.seen.push({ kind: "fault", at: this.file.now(), what });
  }

  async killRouter(slot: RouterSlot): Promise<void> {
    const { child } = slot;
    slot.child = undefined;
    slot.kills++;
    await child?.kill();
  }

  /** Another process in the place of one that was killed. */
  async startRouter(slot: RouterSlot): Promise<void> {
    if (slot.child) return;
    const config: RouterConfig = {
      ...{ redis: `redis://127.0.0.1:${slot.wire.port}`, pool: String(this.#options.seed), token: TOKEN },
      ...{ spec: this.#spec, keys: this.#keys, mutant: this.#options.mutant, seed: this.#options.seed },
      addresses: slot.wires.map(({ port }, i) => ({
        id: String(i),
        variant: "default",
        url: `http://127.0.0.1:${port}`,
      })),
    };
    for (;;) {
      const child = this.#options.nursery.take("router");
      try {
        const { url } = await child.begin(config);
        this.#stack.defer(() => this.#options.nursery.giveBack(child));
        await isReady(url, slot.kills === 0 ? READY_MS : READY_AGAIN_MS);
        slot.url = url;
        slot.child = child;
        child.tell(this.#clocks);
        return;
      } catch (error) {
        await child.kill();
        // The store may be away at this moment; whoever runs routers starts them again.
        if (!String(error).includes("store_unavailable") && !String(error).includes("Redis")) throw error;
      }
    }
  }

  async killInstance(slot: InstanceSlot): Promise<() => Promise<void>> {
    const at = this.file.now();
    const { child } = slot;
    slot.child = undefined;
    await child?.kill();
    return async () => {
      await this.#startInstance(slot);
      const down = { kind: "down" as const, at, until: Number.MAX_SAFE_INTEGER, instance: slot.id };
      this.seen.push(down);
      const noticed = setTimeout(() => {
        down.until = this.file.now();
      }, NOTICED_MS);
      this.#stack.defer(() => clearTimeout(noticed));
    };
  }

  /** The Redis server's clock is that much later from now on, in milliseconds. */
  stepServer(ms: number): void {
    this.#clocks.server += ms;
    for (const { child } of this.routers) child?.tell({ server: this.#clocks.server });
  }

  /** What the engines have counted so far. */
  runs(): Run[] {
    return this.instances.flatMap(({ id, counts }) =>
      existsSync(counts) ? runsOf(id, readFileSync(counts, "utf8")) : [],
    );
  }

  /** What each router has logged lately. */
  logs(): string[] {
    return this.routers.map(({ child }, i) => `router ${i}:\n${child?.log ?? ""}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  async #start(): Promise<void> {
    writeFileSync(join(this.#dir, "token"), TOKEN);
    const places = Array.from({ length: INSTANCES }, (_, i) => String(i));
    for (const id of places) this.instances.push({ id, child: undefined, counts: join(this.#dir, `counts-${id}`) });
    for (let i = 0; i < ROUTERS; i++) {
      const wire = this.#stack.use(await TcpProxy.start(this.redis.port));
      const wires = await Promise.all(places.map(async () => this.#stack.use(await TcpProxy.start(0))));
      for (const [n, one] of wires.entries()) one.onSaid = (bytes) => this.#watch(String(n), bytes);
      this.routers.push({ child: undefined, url: "", wire, wires, kills: 0, isolated: false });
    }
    await Promise.all(this.instances.map((slot) => this.#startInstance(slot)));
    await Promise.all(this.routers.map((slot) => this.startRouter(slot)));
  }

  async #startInstance(slot: InstanceSlot): Promise<void> {
    const { nursery } = this.#options;
    const child = nursery.take("instance");
    this.#stack.defer(() => nursery.giveBack(child));
    const instance = instanceConfig({
      ...{ id: slot.id, tokenFile: join(this.#dir, "token"), contextTokens: 256, sessions: 4 },
      stateDir: join(this.#dir, `state-${slot.id}`),
    });
    const { url } = await child.begin({ instance, counts: slot.counts } satisfies InstanceChildConfig);
    slot.child = child;
    for (const { wires } of this.routers) {
      const wire = wires[Number(slot.id)];
      if (wire) wire.targetPort = Number(new URL(url).port);
    }
  }

  /** Requests on their way to an instance, with the limit that they carry. */
  #watch(instance: string, bytes: Buffer): void {
    const text = bytes.toString("latin1");
    if (!text.startsWith("POST ")) return;
    const id = /^x-request-id: (\S+)\r$/m.exec(text)?.[1];
    const limit = /^x-llmpool-max-total-tokens: (\d+)\r$/m.exec(text)?.[1];
    if (id !== undefined)
      this.seen.push({ kind: "dispatched", at: this.file.now(), id, limit: Number(limit), instance });
  }
}

/** As a load balancer asks before it sends anybody; but one of the instances may be down for long. */
async function isReady(url: string, ms: number): Promise<void> {
  for (const until = performance.now() + ms; performance.now() < until; await pause(50)) {
    const answer = await fetch(`${url}/readyz`);
    await answer.text();
    if (answer.ok) return;
  }
}

export function keyOf(tenant: string): string {
  return `key-of-${tenant}`;
}

function runsOf(instance: string, text: string): Run[] {
  const runs = new Map<string, Run>();
  // A process that was killed may have left half a line, and the next one's first line behind it.
  for (const part of text.split(/\n|(?<=[^\n])(?=\["req_)/)) {
    let line: CountLine;
    try {
      line = JSON.parse(part) as CountLine;
    } catch {
      continue;
    }
    const [id] = line;
    if (line.length === 2) runs.set(id, { id, instance, marker: line[1], prompt: 0, completion: 0, done: false });
    else Object.assign(runs.get(id) ?? {}, { prompt: line[1], completion: line[2], done: line[3] });
  }
  return [...runs.values()];
}

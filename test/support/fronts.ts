import { randomBytes, randomUUID } from "node:crypto";
import type { EpisodeObject } from "../../src/api/http.ts";
import type { PoolPlan } from "../../src/core/plan/types.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { type Logger, silentLogger } from "../../src/lib/logger.ts";
import type { Secrets } from "../../src/router/auth.ts";
import { type Router, startRouter } from "../../src/router/server.ts";
import { openRedisStore } from "../../src/store/redis/open.ts";
import type { RedisStore } from "../../src/store/redis/store.ts";
import { FakeInstance, FakeSource } from "./fake-instance.ts";
import { poolPlan } from "./pool.ts";
import { RedisServer } from "./redis.ts";
import { TcpProxy } from "./tcp-proxy.ts";

/** A router with its own way to Redis. */
export interface Front {
  router: Router;
  store: RedisStore;
  wire: TcpProxy;
  /** Where it takes the instances to be. */
  source: FakeSource;
  /** Its heartbeat lines. */
  lines: string[];
  /** `max_tokens` 20 and one word: 24 tokens at most on a stub pool. */
  chat(body?: object, headers?: Record<string, string>, signal?: AbortSignal): Promise<Response>;
  post(path: string, body: object): Promise<Response>;
  get<T>(path: string): Promise<T>;
  episode(id: string): Promise<EpisodeObject>;
}

export interface FrontsOptions {
  routers?: number;
  instances?: number;
  /** Of the stub pool. */
  spec?: object;
  secrets?: Secrets;
  log?: Logger;
}

/** Several routers of one pool over one real Redis, in front of the same fake instances. */
export class Fronts implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #options: FrontsOptions;
  readonly #pool = randomUUID();
  readonly server: RedisServer;
  readonly instances: FakeInstance[] = [];
  readonly fronts: Front[] = [];
  /** How far the store's clock is ahead of this machine's, in milliseconds. */
  ahead = 0;

  private constructor(server: RedisServer, options: FrontsOptions) {
    this.server = this.#stack.use(server);
    this.#options = options;
  }

  static async start(options: FrontsOptions = {}): Promise<Fronts> {
    const { routers = 2, instances = 2 } = options;
    const fronts = new Fronts(await RedisServer.start(), options);
    for (let i = 0; i < instances; i++) {
      fronts.instances.push(fronts.#stack.use(await FakeInstance.start(String(i))));
    }
    for (let i = 0; i < routers; i++) await fronts.open();
    return fronts;
  }

  get plan(): PoolPlan {
    return poolPlan({ instances: this.instances.length, roles: [{ name: "planner" }], ...this.#options.spec });
  }

  /** One more router. */
  async open(): Promise<Front> {
    const { secrets = {}, log = silentLogger } = this.#options;
    const wire = this.#stack.use(await TcpProxy.start(this.server.port));
    const time = () => ({ now: Date.now() + this.ahead, wall: Date.now() + this.ahead });
    const common = { clock: systemClock, log };
    const store = this.#stack.use(
      await openRedisStore({
        ...{ url: `redis://127.0.0.1:${wire.port}`, namespace: "test", pool: this.#pool, time },
        ...{ random: randomBytes, sessionTTLSeconds: 7200, lateTicks: 10, ...common },
      }),
    );
    const lines: string[] = [];
    const source = new FakeSource(this.instances.map((i) => i.endpoint()));
    const router = this.#stack.use(
      await startRouter({
        plan: this.plan,
        ...{ secrets, store, source, token: "pool-token", host: "127.0.0.1", port: 0, ...common },
        writeLine: (line) => void lines.push(line),
      }),
    );
    const front = frontOf({ router, store, wire, source, lines });
    this.fronts.push(front);
    return front;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

function frontOf(parts: Pick<Front, "router" | "store" | "wire" | "source" | "lines">): Front {
  const { router } = parts;
  const get = async <T>(path: string) => (await (await fetch(router.url + path)).json()) as T;
  return {
    ...parts,
    get,
    post: (path, body) => fetch(router.url + path, { method: "POST", body: JSON.stringify(body) }),
    chat: (body = {}, headers = {}, signal) =>
      fetch(`${router.url}/v1/chat/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({
          model: "planner",
          messages: [{ role: "user", content: "hi" }],
          max_tokens: 20,
          ...body,
        }),
        ...(signal && { signal }),
      }),
    episode: (id) => get<EpisodeObject>(`/v1/episodes/${id}`),
  };
}

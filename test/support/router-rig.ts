import type { EpisodeObject } from "../../src/api/http.ts";
import type { StateStore } from "../../src/core/store.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { type Router, startRouter } from "../../src/router/server.ts";
import { openEphemeralStore } from "./ephemeral-store.ts";
import { FakeClock } from "./fake-clock.ts";
import { FakeInstance, FakeSource } from "./fake-instance.ts";
import { poolPlan } from "./pool.ts";

/** A router on a fake clock, with an embedded store and fake instances behind it. */
export interface Rig {
  clock: FakeClock;
  instances: FakeInstance[];
  source: FakeSource;
  store: StateStore;
  router: Router;
  lines: string[];
  post(path: string, body: object, headers?: Record<string, string>, signal?: AbortSignal): Promise<Response>;
  chat(body?: object, headers?: Record<string, string>): Promise<Response>;
  get<T>(path: string): Promise<T>;
  budget(episode: string): Promise<{ used: number; reserved: number }>;
}

/** `open` takes what has to be closed afterwards, the last first. */
export async function openRig(open: AsyncDisposable[], spec: object, count = 2): Promise<Rig> {
  const clock = new FakeClock();
  const instances = await Promise.all(Array.from({ length: count }, (_, i) => FakeInstance.start(String(i))));
  const source = new FakeSource(instances.map((i) => i.endpoint()));
  const store = openEphemeralStore(clock);
  const lines: string[] = [];
  const router = await startRouter({
    plan: poolPlan({ instances: count, ...spec }),
    secrets: {},
    source,
    store,
    token: "pool-token",
    host: "127.0.0.1",
    port: 0,
    clock,
    log: silentLogger,
    writeLine: (line) => void lines.push(line),
  });
  open.push(...instances, { [Symbol.asyncDispose]: () => store.close() }, router);
  const post: Rig["post"] = (path, body, headers = {}, signal) =>
    fetch(router.url + path, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "content-type": "application/json", ...headers },
      ...(signal && { signal }),
    });
  const get = async <T>(path: string) => (await (await fetch(router.url + path)).json()) as T;
  return {
    clock,
    instances,
    source,
    store,
    router,
    lines,
    post,
    get,
    chat: (body = {}, headers = {}) =>
      post("/v1/chat/completions", { messages: [{ role: "user", content: "hi" }], max_tokens: 20, ...body }, headers),
    async budget(episode) {
      const { tokens_used, tokens_reserved } = await get<EpisodeObject>(`/v1/episodes/${episode}`);
      return { used: tokens_used, reserved: tokens_reserved };
    },
  };
}

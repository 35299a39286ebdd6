import type { Endpoint } from "../../src/core/endpoint.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { type Router, startRouter } from "../../src/router/server.ts";
import { openEphemeralStore } from "./ephemeral-store.ts";
import { FakeClock } from "./fake-clock.ts";
import { FakeSource } from "./fake-instance.ts";
import { poolPlan } from "./pool.ts";

/** A router in front of one instance, for callers that send bytes of their own: it waits for none of them longer than a second. */
export async function startRawRouter(instance: Endpoint): Promise<AsyncDisposable & { url: string }> {
  const clock = new FakeClock();
  const store = openEphemeralStore(clock);
  const router: Router = await startRouter({
    plan: poolPlan({ instances: 1 }),
    secrets: {},
    source: new FakeSource([instance]),
    store,
    token: "t",
    host: "127.0.0.1",
    port: 0,
    clock,
    log: silentLogger,
    writeLine: () => {},
    limits: { headersMs: 400, requestMs: 800, checkMs: 50 },
  });
  return {
    url: router.url,
    async [Symbol.asyncDispose]() {
      await router.close();
      await store.close();
    },
  };
}

import type { ServerResponse } from "node:http";
import { afterEach, describe, expect, test } from "vitest";
import type { InstanceObject, List } from "../../src/api/http.ts";
import { eventually } from "../support/eventually.ts";
import { answerHello, type FakeInstance, json, refuse } from "../support/fake-instance.ts";
import { openRig, type Rig } from "../support/router-rig.ts";

/** What a router and an instance say to each other about the line at the instance. The instance is a fake: it waits for as long as a test needs. */
describe("a call that waits at its instance", () => {
  let rig: Rig;
  let instance: FakeInstance;
  const open: AsyncDisposable[] = [];

  async function start(spec: object = {}): Promise<void> {
    rig = await openRig(open, spec, 1);
    const [first] = rig.instances;
    if (!first) throw new Error("no instance");
    instance = first;
  }
  afterEach(async () => {
    for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
  });
  const seen = async () => (await rig.get<List<InstanceObject>>("/v1/instances")).data[0];
  const tell = (res: ServerResponse, position: number) =>
    res.writeInformation(102, { "x-llmpool-position": String(position) });

  test("is told to the instance with what orders it", async () => {
    await start({ episodes: { timeoutSeconds: 60 }, requestTimeoutSeconds: 180 });
    await rig.chat({}, { "x-episode-id": "e1" });
    expect(instance.received[0]?.headers).toMatchObject({
      "x-llmpool-flow": "/e1",
      "x-llmpool-episode-ms": "60000",
      "x-llmpool-timeout-ms": "180000",
    });
    await rig.chat();
    expect(instance.received[1]?.headers).toMatchObject({ "x-llmpool-flow": "/" });
    expect(instance.received[1]?.headers["x-llmpool-episode-ms"]).toBeUndefined();
    expect(instance.received[1]?.headers["x-llmpool-queue-limit"]).toBeUndefined();
    await start({ router: { queuePerInstance: 3 } });
    await rig.chat();
    expect(instance.received[0]?.headers["x-llmpool-queue-limit"]).toBe("3");
  });

  test("counts as queued until the instance says that it begins, and the answer says how long it waited", async () => {
    await start();
    const { promise: begin, resolve } = Promise.withResolvers<void>();
    const { promise: end, resolve: finish } = Promise.withResolvers<void>();
    instance.behave = async (call, res) => {
      tell(res, 3);
      await begin;
      tell(res, 0);
      await end;
      await answerHello(call, res);
    };
    const answer = rig.chat();
    await eventually("it waits there", async () => (await seen())?.queued === 1);
    expect(await seen()).toMatchObject({ running: 0, queued: 1 });
    rig.clock.advance(2_000);
    resolve();
    await eventually("it runs", async () => (await seen())?.running === 1);
    expect(await seen()).toMatchObject({ queued: 0 });
    rig.clock.advance(1_000);
    finish();
    expect((await answer).headers.get("x-llmpool-queue-ms")).toBe("2000");
    expect(await seen()).toMatchObject({ queued: 0, running: 0 });
  });

  test("a stream hears its place there", async () => {
    await start();
    const { promise: end, resolve: finish } = Promise.withResolvers<void>();
    instance.behave = async (call, res) => {
      tell(res, 4);
      await end;
      await answerHello(call, res);
    };
    const answer = rig.chat({ stream: true });
    await eventually("it waits there", async () => (await seen())?.queued === 1);
    rig.clock.advance(10_000);
    const stream = await answer;
    finish();
    expect(await stream.text()).toMatch(/^: queued 4\n\n/);
  });

  test("is sent again when the instance refuses it at an end that its episode no longer has", async () => {
    await start({
      episodes: { timeoutSeconds: 60, progressExtendSeconds: 30, maxTimeoutSeconds: 100 },
      requestTimeoutSeconds: 180,
    });
    const { promise: atOldEnd, resolve } = Promise.withResolvers<void>();
    instance.behave = async (call, res) => {
      if (instance.received.length > 1) return answerHello(call, res);
      tell(res, 1);
      await atOldEnd;
      refuse(res, 504, "episode_deadline_exceeded");
    };
    const answer = rig.chat({}, { "x-episode-id": "e1" });
    await eventually("it waits there", async () => (await seen())?.queued === 1);
    rig.clock.advance(50_000);
    await rig.post("/v1/episodes/e1/progress", { event: "patch" });
    rig.clock.advance(10_000);
    resolve();
    expect((await answer).status).toBe(200);
    expect(instance.received[1]?.headers).toMatchObject({
      "x-llmpool-episode-ms": "30000",
      "x-llmpool-waited-ms": "60000",
    });
  });

  test("is refused when its episode ends there", async () => {
    await start();
    instance.behave = (_, res) => refuse(res, 504, "episode_deadline_exceeded");
    expect((await rig.chat({}, { "x-episode-id": "e1" })).status).toBe(504);
    expect(instance.received).toHaveLength(1);
  });

  test("a full line there is refused once, with the instance's own Retry-After", async () => {
    await start();
    instance.behave = (_, res) => {
      res.setHeader("retry-after", "7");
      json(res, 429, { error: { code: "queue_full", message: "full" } });
    };
    const refused = await rig.chat();
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, "7"]);
    expect(instance.received).toHaveLength(1);
  });

  test("goes on waiting when the instance is lost, keeps its age, and pays nothing for what never began", async () => {
    await start();
    instance.uptimeSeconds = 0; // the process that comes back remembers nothing
    instance.behave = async (call, res) => {
      if (instance.received.length > 4) return answerHello(call, res);
      tell(res, 2);
      await eventually("the router has heard it", async () => (await seen())?.queued === 1);
      rig.clock.advance(500);
      res.destroy();
    };
    const answer = rig.chat({}, { "x-episode-id": "e1" });
    const served = eventually("it is served", async () => {
      rig.clock.advance(100);
      return instance.received.length > 4 && answer;
    });
    expect((await served).status).toBe(200);
    expect(Number(instance.received[4]?.headers["x-llmpool-waited-ms"])).toBeGreaterThanOrEqual(2_000);
    await eventually("all is settled", async () => {
      rig.clock.advance(1_000);
      return (await rig.budget("e1")).reserved === 0;
    });
    expect(await rig.budget("e1")).toEqual({ used: 10, reserved: 0 });
  });
});

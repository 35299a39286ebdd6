import { Agent, request } from "node:http";
import { afterEach, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { chunk, type FakeInstance, json, startStream, USAGE } from "../support/fake-instance.ts";
import { RawConnection } from "../support/raw-http.ts";
import { openRig, type Rig } from "../support/router-rig.ts";

let rig: Rig;
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
});
const at = (index: number): FakeInstance => {
  const instance = rig.instances[index];
  if (!instance) throw new Error(`no instance ${index}`);
  return instance;
};
const BODY = '{"model":"planner","messages":[{"role":"user","content":"hi"}]}';

/** A call on a kept connection. */
function kept(
  agent: Agent,
  path = "/v1/chat/completions",
): Promise<{ status: number; connection: string; text: string }> {
  return new Promise((resolve, reject) => {
    const call = request(
      rig.router.url + path,
      { agent, method: path.startsWith("/v1/chat") ? "POST" : "GET" },
      (res) => {
        let text = "";
        res.setEncoding("utf8").on("data", (part) => (text += part));
        res.on("end", () => resolve({ status: res.statusCode ?? 0, connection: res.headers.connection ?? "", text }));
        res.on("error", reject);
      },
    );
    call.on("error", reject);
    call.end(path.startsWith("/v1/chat") ? BODY : undefined);
  });
}

test("one that leaves is not ready, serves new callers on, and ends each connection with its answer", async () => {
  rig = await openRig(open, { roles: [{ name: "planner", instance: 0 }] }, 1);
  using agent = Object.assign(new Agent({ keepAlive: true }), { [Symbol.dispose]: () => agent.destroy() });
  expect((await kept(agent)).connection).toBe("keep-alive");
  rig.router.leave();
  expect(await kept(agent, "/readyz")).toMatchObject({ status: 503, connection: "close" });
  const answers = await Promise.all(Array.from({ length: 5 }, () => kept(agent)));
  expect(answers.map(({ status, connection }) => [status, connection])).toEqual(Array(5).fill([200, "close"]));
});

test("one that closes ends what it runs, to the last byte of an answer that is read slowly, and lets nobody in", async () => {
  rig = await openRig(open, { roles: [{ name: "planner", instance: 0 }] }, 1);
  const { promise: go, resolve } = Promise.withResolvers<void>();
  const content = "x".repeat(6 * 2 ** 20);
  at(0).behave = async ({ body }, res) => {
    await go;
    if (body.stream === true) {
      startStream(res);
      res.end(
        `${chunk("lo", "stop")}: usage {"prompt_tokens":4,"completion_tokens":2,"cached_tokens":0}\n\ndata: [DONE]\n\n`,
      );
    } else json(res, 200, { choices: [{ index: 0, message: { role: "assistant", content } }], usage: USAGE });
  };
  using slow = await RawConnection.open(rig.router.url);
  slow.socket.pause();
  slow.send(`POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`);
  const stream = rig.chat({ model: "planner", stream: true });
  await eventually("both run", () => at(0).received.length === 2);
  rig.router.leave();
  const closed = rig.router.close(60_000);
  resolve();
  expect(await (await stream).text()).toMatch(/data: \[DONE\]\n\n$/);
  await eventually("both are settled", async () => (await rig.store.openReservations()).length === 0);
  await expect(fetch(`${rig.router.url}/healthz`)).rejects.toThrow();
  slow.socket.resume();
  await slow.closed;
  expect(slow.received.length).toBeGreaterThan(content.length);
  await closed;
});

test("an instance that drains ends what it runs, and gets nothing new; one that is gone ends it with an error that says so", async () => {
  rig = await openRig(open, { roles: [{ name: "planner" }] }, 2);
  const { promise: go, resolve } = Promise.withResolvers<void>();
  at(0).behave = async (_call, res) => {
    startStream(res);
    res.write(chunk("hel"));
    await go;
    res.end(
      `${chunk("lo", "stop")}: usage {"prompt_tokens":4,"completion_tokens":2,"cached_tokens":0}\n\ndata: [DONE]\n\n`,
    );
  };
  const drained = await rig.chat({ model: "planner", stream: true });
  expect(at(0).received).toHaveLength(1);
  rig.source.set([at(0).endpoint({ state: "Draining" }), at(1).endpoint()]);
  for (let i = 0; i < 3; i++) {
    const next = await rig.chat({ model: "planner" });
    expect([next.status, next.headers.get("x-llmpool-instance")]).toEqual([200, "1"]);
  }
  resolve();
  expect(await drained.text()).toMatch(/data: \[DONE\]\n\n$/);
  at(1).behave = (_call, res) => {
    startStream(res);
    res.write(chunk("hel"));
  };
  const lost = await rig.chat({ model: "planner", stream: true });
  rig.source.set([at(0).endpoint()]);
  const text = await lost.text();
  expect(text).toMatch(/data: \{"error":.*"code":"upstream_error"/);
  expect(text).not.toContain("[DONE]");
});

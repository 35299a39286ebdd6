import { afterEach, beforeEach, expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import {
  answerHello,
  type Behaviour,
  chunk,
  type FakeInstance,
  refuse,
  startStream,
} from "../support/fake-instance.ts";
import { openRig, type Rig } from "../support/router-rig.ts";
import { settle } from "../support/settle.ts";

/** What requests cost that did not end as they should. A whole answer of a fake instance costs 10 tokens. */

let rig: Rig;
const open: AsyncDisposable[] = [];
beforeEach(async () => {
  rig = await openRig(open, {
    roles: [{ name: "planner", instance: 0 }],
    contextTokens: 64,
    requestTimeoutSeconds: 3600,
    rebindAfterSeconds: 30,
  });
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one[Symbol.asyncDispose]();
});

function at(index: number): FakeInstance {
  const instance = rig.instances[index];
  if (!instance) throw new Error(`no fake instance ${index}`);
  return instance;
}
const ids = (instance: FakeInstance) => instance.received.map(({ headers }) => String(headers["x-request-id"]));
const ask = (rest: object = {}) => rig.chat({ model: "planner", ...rest }, { "x-episode-id": "e" });
const spent = () => rig.budget("e");
const settled = () =>
  eventually("it is settled", async () => {
    const budget = await spent();
    return budget.reserved === 0 && budget;
  });

/** The first call is cut off by its instance in this way, the others are answered. */
function firstly(behave: Behaviour): void {
  at(0).behave = (call, res) => (at(0).received.length > 1 ? answerHello(call, res) : behave(call, res));
}
/** The instance counts this for the call. */
const counted = (id: string, prompt_tokens: number, completion_tokens: number) =>
  at(0).records.set(id, { prompt_tokens, completion_tokens, cached_tokens: 0 });

/** A stream that breaks off after its first token, when nothing can be asked. */
async function breakOffUnasked(): Promise<number> {
  at(0).behave = (_call, res) => {
    startStream(res);
    res.write(chunk("hel"), () => res.destroy());
  };
  at(0).mute = true;
  await (await ask({ stream: true })).text();
  const { used, reserved } = await spent();
  expect(used).toBe(0);
  expect(reserved).toBeGreaterThan(0);
  return reserved;
}

test("a cut-off request counts in full until its instance can be asked, and then by its count", async () => {
  const reserved = await breakOffUnasked();
  rig.clock.advance(60_000);
  expect(await spent()).toEqual({ used: 0, reserved });
  counted(ids(at(0))[0] ?? "", 7, 2);
  at(0).mute = false;
  await eventually("it is asked again", async () => {
    rig.clock.advance(1_000);
    return (await spent()).used > 0;
  });
  expect(await spent()).toEqual({ used: 9, reserved: 0 });
});

test("when the process that knew is gone, the whole reservation of a cut-off request is spent", async () => {
  let reserved = 0;
  at(0).uptimeSeconds = 1;
  at(0).behave = async (_call, res) => {
    startStream(res);
    reserved = (await spent()).reserved;
    rig.clock.advance(5_000);
    res.write(chunk("hel"), () => res.destroy());
  };
  await (await ask({ stream: true })).text();
  expect(await settled()).toEqual({ used: reserved, reserved: 0 });
  expect(reserved).toBeGreaterThan(0);
});

test("an instance that stays away for as long as it would remember proves nothing any more", async () => {
  const reserved = await breakOffUnasked();
  rig.clock.advance(600_000);
  expect(await settled()).toEqual({ used: reserved, reserved: 0 });
});

test.each(["a new", "a used"])(
  "an attempt that %s connection lost before its first byte is charged, and the next one has its own",
  async (which) => {
    const before = which === "a used" ? 10 : 0;
    if (before > 0) await (await ask()).text();
    const calls = at(0).received.length;
    at(0).behave = (call, res) => {
      if (at(0).received.length > calls + 1) return answerHello(call, res);
      counted(String(call.headers["x-request-id"]), 7, 2);
      res.destroy();
    };
    const answer = ask();
    const response = await eventually("it is tried again", async () => {
      rig.clock.advance(1_000);
      return Promise.race([answer, settle().then(() => undefined)]);
    });
    expect(response.status).toBe(200);
    const [first, second] = ids(at(0)).slice(calls);
    expect(second).not.toBe(first);
    expect(await settled()).toEqual({ used: before + 9 + 10, reserved: 0 });
  },
);

test("an attempt that was refused after it had computed something is charged, and tried again", async () => {
  firstly((_call, res) => {
    res.writeHead(503, { "content-type": "application/json" });
    const usage = { prompt_tokens: 7, completion_tokens: 1, total_tokens: 8 };
    res.end(
      JSON.stringify({ error: { message: "draining", type: "server_error", code: "instance_unavailable" }, usage }),
    );
  });
  const answer = ask();
  await eventually("it waits for it", () => rig.router.instances().some(({ queued }) => queued === 1));
  rig.clock.advance(1_000);
  expect((await answer).status).toBe(200);
  expect(await settled()).toEqual({ used: 8 + 10, reserved: 0 });
});

test("a refusal by somebody on the way says nothing about what the instance has computed", async () => {
  at(0).behave = ({ headers }, res) => {
    counted(String(headers["x-request-id"]), 7, 2);
    res.writeHead(503, { "content-type": "text/plain" }).end("upstream connect error");
  };
  expect((await ask()).status).toBe(502);
  expect(await settled()).toEqual({ used: 9, reserved: 0 });
});

test("an instance that takes no connection costs nothing", async () => {
  await rig.store.startEpisode("", {
    id: "e",
    settings: {
      ...{ timeoutSeconds: 3600, maxTimeoutSeconds: 3600, progressExtendSeconds: 0, idleTimeoutSeconds: 0 },
      ...{ retainSeconds: 600, budgetTokens: 0 },
    },
  });
  await at(0).close();
  const answer = ask();
  const response = await eventually("it is given up", async () => {
    rig.clock.advance(1_000);
    return Promise.race([answer, settle().then(() => undefined)]);
  });
  expect(response.status).toBe(503);
  expect(await spent()).toEqual({ used: 0, reserved: 0 });
});

test("the store knows on which instance a request runs that came back from another one", async () => {
  rig.source.set([at(0).endpoint({ state: "Failed" }), at(1).endpoint()]);
  at(1).behave = (_call, res) => {
    rig.source.set(rig.instances.map((i) => i.endpoint()));
    refuse(res, 503, "instance_unavailable");
  };
  at(0).behave = () => {};
  const abort = new AbortController();
  const body = { messages: [{ role: "user", content: "hi" }], max_tokens: 20, model: "planner" };
  const answer = rig.post("/v1/chat/completions", body, { "x-episode-id": "e" }, abort.signal).catch(() => {});
  await eventually("it waits", async () => (await rig.router.instances()).some(({ queued }) => queued === 1));
  rig.clock.advance(30_000);
  await eventually("it runs at home", () => at(0).received[0]);
  expect(await rig.store.openReservations()).toMatchObject([{ instance: "0" }]);
  abort.abort();
  await answer;
});

test.each([
  ["that has not answered yet", { state: "Pending", uid: "nobody" }, undefined],
  ["that is another process meanwhile", { state: "Failed", uid: "before" }, "before"],
] as const)(
  "a call that waits for an instance %s names the process that it is sent to, before it is",
  async (_, change, boot) => {
    rig.source.set([at(0).endpoint(change)]);
    const seen: (string | undefined)[] = [];
    const bootNow = async () => (await rig.store.openReservations())[0]?.boot;
    at(0).behave = async (call, res) => {
      seen.push(await bootNow());
      await answerHello(call, res);
    };
    const answer = ask();
    await eventually("it waits", () => rig.router.instances().some(({ queued }) => queued === 1));
    expect(await bootNow()).toBe(boot);
    rig.source.set([at(0).endpoint()]);
    expect((await answer).status).toBe(200);
    expect(seen).toEqual(["uid-0"]);
  },
);

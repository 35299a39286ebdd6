import { expect, onTestFinished, test } from "vitest";
import { FakeClock } from "../test/support/fake-clock.ts";
import { settle } from "../test/support/settle.ts";
import type { Target } from "./ask.ts";
import { Prober } from "./prober.ts";

const instance = (id: string, uid = "u", ready = false): Target => ({ url: `http://${id}/readyz`, id, uid, ready });
const ready = (speed = 60) => ({ state: "Ready", device: "CPU", warmup_s: 1, tokens_per_second: speed });

/** A prober over answers by URL that a test may change. */
function probing(answers: Record<string, unknown>) {
  const clock = new FakeClock();
  const asked: string[] = [];
  const news: string[] = [];
  const prober = new Prober({
    clock,
    ask: async (url) => {
      asked.push(url);
      return answers[url];
    },
    onChange: (key) => news.push(key),
  });
  onTestFinished(() => prober.close());
  const pass = async (ms: number) => {
    clock.advance(ms);
    await settle();
  };
  return { prober, asked, news, pass };
}

test("an instance is asked at once, often while it starts, seldom when it is ready", async () => {
  const answers: Record<string, unknown> = { "http://0/readyz": { state: "WarmingUp" } };
  const { prober, asked, news, pass } = probing(answers);
  prober.follow("team/apex", [instance("0")]);
  await pass(0);
  expect(prober.told("team/apex").get("0")).toEqual({ state: "WarmingUp" });
  answers["http://0/readyz"] = ready();
  await pass(2_000);
  expect(prober.told("team/apex").get("0")).toEqual({
    state: "Ready",
    device: "CPU",
    warmupSeconds: 1,
    tokensPerSecond: 60,
  });
  expect([asked.length, news]).toEqual([2, ["team/apex", "team/apex"]]);
  await pass(29_000);
  expect(asked.length).toBe(2);
  await pass(1_000);
  expect([asked.length, news.length]).toEqual([3, 2]);
});

test("what an operator before was told counts until its instances have spoken, or been silent for long", async () => {
  const answers: Record<string, unknown> = { "http://0/readyz": { state: "WarmingUp" } };
  const { prober, news, pass } = probing(answers);
  const remembered = new Map(["0", "1"].map((id) => [id, { state: "Ready" as const, device: "GPU" }]));
  const states = () => ["0", "1"].map((id) => prober.told("k").get(id)?.state);
  prober.follow("k", [instance("0"), instance("1")], remembered);
  expect(states()).toEqual(["Ready", "Ready"]);
  await pass(0);
  expect([states(), news.length]).toEqual([["WarmingUp", "Ready"], 1]);
  await pass(2_000);
  await pass(2_000);
  expect([states(), news.length]).toEqual([["WarmingUp", undefined], 2]);
  // Only the first time: pods that come later are others.
  prober.follow("k", [instance("0", "other")], remembered);
  expect(states()).toEqual([undefined, undefined]);
});

test("a speed that wanders is no news, one that has changed is", async () => {
  const answers: Record<string, unknown> = { "http://0/readyz": ready(60) };
  const { prober, news, pass } = probing(answers);
  prober.follow("k", [instance("0")]);
  await pass(0);
  for (const speed of [66, 55, 71]) {
    answers["http://0/readyz"] = ready(speed);
    await pass(30_000);
  }
  expect(news.length).toBe(1);
  answers["http://0/readyz"] = ready(40);
  await pass(30_000);
  expect([news.length, prober.told("k").get("0")?.tokensPerSecond]).toEqual([2, 40]);
});

test("one that misses an answer keeps its last one, and loses it after three", async () => {
  const answers: Record<string, unknown> = { "http://0/readyz": ready() };
  const { prober, news, pass } = probing(answers);
  prober.follow("k", [instance("0")]);
  await pass(0);
  delete answers["http://0/readyz"];
  await pass(30_000);
  await pass(2_000);
  expect(prober.told("k").size).toBe(1);
  await pass(2_000);
  expect([prober.told("k").size, news.length]).toEqual([0, 2]);
});

test("another pod at the same address is another instance, and what is gone is asked no more", async () => {
  const { prober, asked, pass } = probing({ "http://0/readyz": ready() });
  prober.follow("k", [instance("0", "first")]);
  await pass(0);
  prober.follow("k", [instance("0", "second")]);
  expect(prober.told("k").size).toBe(0);
  await pass(0);
  expect(prober.told("k").size).toBe(1);
  prober.follow("k", []);
  await pass(120_000);
  expect([asked.length, prober.told("k").size]).toEqual([2, 0]);
});

test("what a kubelet finds ready is asked at once again, unless it said so itself", async () => {
  const answers: Record<string, unknown> = { "http://0/readyz": { state: "WarmingUp" } };
  const { prober, asked, pass } = probing(answers);
  prober.follow("k", [instance("0")]);
  await pass(0);
  answers["http://0/readyz"] = ready();
  for (let time = 0; time < 2; time++) {
    prober.follow("k", [instance("0", "u", true)]);
    await pass(0);
  }
  expect([asked.length, prober.told("k").get("0")?.device]).toEqual([2, "CPU"]);
  prober.follow("k", [instance("0")]);
  prober.follow("k", [instance("0", "u", true)]);
  // And goes on as before.
  await pass(30_000);
  expect(asked.length).toBe(3);
});

test("a status may wait for who is asked for the first time or has become ready, for a moment", async () => {
  const answer = Promise.withResolvers<unknown>();
  const { prober, pass } = probing({ "http://0/readyz": answer.promise, "http://1/readyz": { state: "WarmingUp" } });
  prober.follow("k", [instance("1")]);
  expect([prober.waitMs("k"), prober.waitMs("other")]).toEqual([200, 0]);
  await pass(0);
  expect(prober.waitMs("k")).toBe(0);
  prober.follow("k", [instance("0"), instance("1", "u", true)]);
  await pass(150);
  expect(prober.waitMs("k")).toBe(50);
  await pass(50);
  expect(prober.waitMs("k")).toBe(0);
  answer.resolve(ready());
  await pass(0);
  expect([prober.waitMs("k"), prober.told("k").size]).toEqual([0, 2]);
});

test("a supervisor speaks for all that it runs, with their restarts", async () => {
  const rows = [
    { id: "0", restarts: 0, ...ready() },
    { id: "1", restarts: 2, state: "Failed", message: "went over its memory limit" },
  ];
  const { prober, pass } = probing({ "http://p:8200/healthz": { instances: rows } });
  prober.follow("k", [{ url: "http://p:8200/healthz", id: undefined, uid: "u", ready: true }]);
  await pass(0);
  expect(prober.told("k").get("0")).toMatchObject({ state: "Ready", restarts: 0 });
  expect(prober.told("k").get("1")).toEqual({ state: "Failed", restarts: 2, message: "went over its memory limit" });
});

test("a supervisor is asked often until its processes are those of an edit, and says of which revision they are", async () => {
  const url = "http://p:8200/healthz";
  const answer = (revision: string) => ({ instances: [{ id: "0", restarts: 0, ...ready(), revision }] });
  const answers: Record<string, unknown> = { [url]: answer("a") };
  const { prober, asked, news, pass } = probing(answers);
  const want = (revision: string) =>
    prober.follow("k", [{ url, id: undefined, uid: "u", ready: false, revisions: new Map([["0", revision]]) }]);
  want("a");
  await pass(0);
  await pass(2_000);
  expect([asked.length, prober.told("k").get("0")?.revision]).toEqual([1, "a"]);
  want("b");
  await pass(0);
  await pass(2_000);
  expect(asked.length).toBe(3);
  answers[url] = answer("b");
  await pass(2_000);
  await pass(2_000);
  expect([asked.length, news.length, prober.told("k").get("0")?.revision]).toEqual([4, 2, "b"]);
});

test("what a pod itself has said is told apart from what is remembered and from what another said", async () => {
  const pod = (name: string) => ({ url: `http://${name}:8200/healthz`, id: undefined, uid: name, ready: false });
  const answers = { "http://a:8200/healthz": { instances: [{ id: "0", ...ready() }] } };
  const { prober, pass } = probing(answers);
  prober.follow("k", [pod("a"), pod("b")], new Map([["1", { state: "Ready" }]]));
  await pass(0);
  expect([...prober.told("k").keys()].sort()).toEqual(["0", "1"]);
  expect([...prober.said("k", "a").keys()]).toEqual(["0"]);
  expect(prober.said("k", "b").size).toBe(0);
});

test.each([
  "ready",
  null,
  [],
  { state: "Unheard" },
  { state: "Ready", device: 7, warmup_s: "fast", tokens_per_second: -1, restarts: Number.NaN, message: {} },
])("an answer that is not ours is no harm: %j", async (answer) => {
  const { prober, pass } = probing({ "http://0/readyz": answer });
  prober.follow("k", [instance("0")]);
  await pass(0);
  const told = [...prober.told("k").values()];
  expect(told.every((one) => JSON.stringify(one) === '{"state":"Ready"}')).toBe(true);
});

import { expect, test } from "vitest";
import { makeMetrics, SECONDS_BUCKETS, TOKEN_GAP_BUCKETS } from "./metrics.ts";

test("a label outside its closed set is counted as other, so series stay bounded", async () => {
  const metrics = makeMetrics();
  const requests = metrics.counter("t_requests_total", "t", { code: new Set(["ok", "not_found"]) });
  requests.inc(1, { code: "ok" });
  for (let i = 0; i < 50; i++) requests.inc(1, { code: `evil-${i}` });
  const lines = (await metrics.expose()).split("\n").filter((line) => line.startsWith("t_requests_total"));
  expect(lines.sort()).toEqual(['t_requests_total{code="ok"} 1', 't_requests_total{code="other"} 50']);
});

test("a set may grow while running", async () => {
  const metrics = makeMetrics();
  const ids = new Set<string>();
  const gauge = metrics.gauge("t_running", "t", { instance: ids });
  ids.add("0");
  gauge.set(3, { instance: "0" });
  expect(await metrics.expose()).toContain('t_running{instance="0"} 3');
  gauge.reset();
  expect(await metrics.expose()).not.toContain("instance=");
});

test("gauges that are read are filled before each exposition", async () => {
  const metrics = makeMetrics();
  let now = 1;
  const gauge = metrics.gauge("t_now", "t");
  metrics.onCollect(() => gauge.set(now));
  expect(await metrics.expose()).toContain("t_now 1");
  now = 2;
  expect(await metrics.expose()).toContain("t_now 2");
});

test("two registries are separate", async () => {
  const one = makeMetrics();
  const two = makeMetrics();
  one.counter("t_total", "t").inc(1);
  two.counter("t_total", "t").inc(5);
  expect(await one.expose()).toContain("t_total 1");
  expect(await two.expose()).toContain("t_total 5");
});

test("histograms carry their explicit buckets, in rising order", async () => {
  const metrics = makeMetrics();
  metrics.histogram("t_seconds", "t", SECONDS_BUCKETS).observe(0.02);
  const text = await metrics.expose();
  expect(text).toContain('t_seconds_bucket{le="0.01"} 0');
  expect(text).toContain('t_seconds_bucket{le="0.025"} 1');
  for (const buckets of [SECONDS_BUCKETS, TOKEN_GAP_BUCKETS])
    expect(buckets).toEqual(buckets.toSorted((a, b) => a - b));
});

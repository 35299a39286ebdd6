import fc from "fast-check";
import { Counter, Histogram, Registry } from "prom-client";
import { expect, test } from "vitest";
import { makeMetrics } from "./metrics.ts";

const ROLES = ["planner", "coder"];
const CODES = ["ok", "aborted", "not_found"];
const BOUNDS = [0.1, 1, 10];
const label = (known: string[]) => fc.oneof(fc.constantFrom(...known), fc.constantFrom("evil", "other", ""));
const calls = fc.array(
  fc.record({ role: label(ROLES), code: label(CODES), value: fc.constantFrom(0, 0.05, 0.1, 0.5, 1, 7, 10, 99) }),
  { maxLength: 40 },
);

test("writes what prom-client's own counters and histograms would write", async () => {
  await fc.assert(
    fc.asyncProperty(calls, async (given) => {
      const ours = makeMetrics();
      const sets = { role: new Set(ROLES), code: new Set(CODES) };
      const counter = ours.counter("t_total", "help", sets);
      const histogram = ours.histogram("t_seconds", "help", BOUNDS, sets);
      const registry = new Registry();
      const common = { help: "help", labelNames: ["role", "code"], registers: [registry] };
      const theirCounter = new Counter({ name: "t_total", ...common });
      const theirHistogram = new Histogram({ name: "t_seconds", buckets: BOUNDS, ...common });
      for (const { role, code, value } of given) {
        counter.inc(value, { role, code });
        histogram.observe(value, { role, code });
        const closed = { role: ROLES.includes(role) ? role : "other", code: CODES.includes(code) ? code : "other" };
        theirCounter.inc(closed, value);
        theirHistogram.observe(closed, value);
      }
      expect(await ours.expose()).toBe(await registry.metrics());
    }),
  );
});

test("without labels a metric is there before anything has happened", async () => {
  const metrics = makeMetrics();
  metrics.counter("t_total", "t");
  metrics.histogram("t_seconds", "t", [1]);
  const text = await metrics.expose();
  expect(text).toContain("t_total 0");
  expect(text).toContain('t_seconds_bucket{le="+Inf"} 0');
});

import { collectDefaultMetrics, Gauge, type Metric, Registry } from "prom-client";
import { FastCounter, FastHistogram, type LabelSets } from "./series.ts";

/**
 * Prometheus metrics with labels from closed sets only: each label comes with the set of values it may take, and any other value is
 * counted as `other`, so that no caller can grow the number of series. A set may be changed while running (instances come and go).
 */
export interface Metrics {
  counter<L extends string = never>(name: string, help: string, labels?: LabelSets<L>): CounterMetric<L>;
  gauge<L extends string = never>(name: string, help: string, labels?: LabelSets<L>): GaugeMetric<L>;
  /** `buckets` are upper bounds, in the unit that ends the name. */
  histogram<L extends string = never>(
    name: string,
    help: string,
    buckets: number[],
    labels?: LabelSets<L>,
  ): HistogramMetric<L>;
  /** Runs before each exposition: for gauges that are read, not kept. */
  onCollect(run: () => void): void;
  /** CPU, memory and event loop of this process, under prom-client's own names. */
  addProcessMetrics(): void;
  /** What there is, for documentation. */
  describe(): { name: string; type: string; labels: string[]; help: string }[];
  /** The text exposition, to be sent as `contentType`. */
  expose(): Promise<string>;
  readonly contentType: string;
}

type Labels<L extends string> = [L] extends [never] ? [] : [labels: Record<L, string>];

export interface CounterMetric<L extends string> {
  inc(value: number, ...labels: Labels<L>): void;
}
export interface GaugeMetric<L extends string> {
  set(value: number, ...labels: Labels<L>): void;
  /** Forgets every series: before a gauge is filled again from what exists now. */
  reset(): void;
}
export interface HistogramMetric<L extends string> {
  observe(value: number, ...labels: Labels<L>): void;
}

/** Seconds from a millisecond to ten minutes: waits, first tokens, whole requests. */
export const SECONDS_BUCKETS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
];
/** Seconds between two tokens. */
export const TOKEN_GAP_BUCKETS = [
  0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10,
];

/** One registry of its own: two servers in one process never share a series. */
export function makeMetrics(): Metrics {
  const registry = new Registry();
  const collectors: (() => void)[] = [];
  const described: ReturnType<Metrics["describe"]> = [];
  const describe = (type: string, name: string, help: string, labels: object | undefined) =>
    described.push({ name, type, labels: Object.keys(labels ?? {}), help });
  const register = <M extends FastCounter | FastHistogram>(metric: M): M => {
    // A registry needs no more of a metric than its name and `get`.
    registry.registerMetric(metric as unknown as Metric);
    return metric;
  };
  return {
    counter(name, help, labels) {
      describe("counter", name, help, labels);
      return register(new FastCounter({ name, help, labels }));
    },
    gauge(name, help, labels) {
      describe("gauge", name, help, labels);
      const metric = new Gauge({ name, help, labelNames: Object.keys(labels ?? {}), registers: [registry] });
      const close = closedLabels(labels);
      return {
        set: (value, ...[given]) => (given ? metric.set(close(given), value) : metric.set(value)),
        reset: () => metric.reset(),
      };
    },
    histogram(name, help, buckets, labels) {
      describe("histogram", name, help, labels);
      return register(new FastHistogram({ name, help, labels }, buckets));
    },
    onCollect: (run) => void collectors.push(run),
    describe: () => described,
    addProcessMetrics: () => collectDefaultMetrics({ register: registry }),
    expose() {
      for (const run of collectors) run();
      return registry.metrics();
    },
    contentType: registry.contentType,
  };
}

/** Copies labels only when one is outside its set: the usual call allocates nothing. */
function closedLabels(sets: LabelSets<string> | undefined): (given: Record<string, string>) => Record<string, string> {
  const entries = Object.entries(sets ?? {});
  return (given) => {
    let safe = given;
    for (const [name, allowed] of entries) {
      const value = given[name];
      if (value !== undefined && allowed.has(value)) continue;
      if (safe === given) safe = { ...given };
      safe[name] = "other";
    }
    return safe;
  };
}

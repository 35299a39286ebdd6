/**
 * Counters and histograms for the paths that every request and token takes: a hit finds its series without making an object or a string.
 * prom-client's registry writes them out.
 */

export type LabelSets<L extends string> = Record<L, ReadonlySet<string>>;
type LabelValues = Readonly<Record<string, string>>;

/** What a prom-client registry asks a metric for. */
interface Collected {
  name: string;
  help: string;
  type: "counter" | "histogram";
  aggregator: "sum";
  values: { metricName: string; labels: Record<string, string | number>; value: number }[];
}

interface Description {
  name: string;
  help: string;
  labels: LabelSets<string> | undefined;
}

interface Leaf<S> {
  labels: LabelValues;
  series: S;
}
type Branch<S> = Map<string, Branch<S> | Leaf<S>>;

/** Series by their label values, a level of maps for each label. A value outside of its closed set counts as `other`. */
class SeriesTree<S> {
  readonly leaves: Leaf<S>[] = [];
  readonly #names: readonly string[];
  readonly #sets: LabelSets<string>;
  readonly #make: () => S;
  readonly #root: Branch<S> | Leaf<S>;

  constructor(sets: LabelSets<string> | undefined, make: () => S) {
    this.#sets = sets ?? {};
    this.#names = Object.keys(this.#sets);
    this.#make = make;
    // Without labels the one series is there from the start.
    this.#root = this.#names.length === 0 ? this.#leaf({}) : new Map();
  }

  get(labels: LabelValues): S {
    let node: Branch<S> | Leaf<S> | undefined = this.#root;
    for (const name of this.#names) node = (node as Branch<S> | undefined)?.get(labels[name] ?? "");
    return (node as Leaf<S> | undefined)?.series ?? this.#add(labels);
  }

  /** Only values of the sets become branches: one that a caller invents comes here each time. */
  #add(labels: LabelValues): S {
    const values = this.#names.map((name) => {
      const value = labels[name] ?? "";
      return this.#sets[name]?.has(value) ? value : "other";
    });
    const last = values.at(-1) ?? "";
    let branch = this.#root as Branch<S>;
    for (const value of values.slice(0, -1)) {
      const next = branch.get(value) ?? new Map();
      branch.set(value, next);
      branch = next as Branch<S>;
    }
    const known = branch.get(last) as Leaf<S> | undefined;
    if (known) return known.series;
    const leaf = this.#leaf(Object.fromEntries(this.#names.map((name, i) => [name, values[i] ?? ""])));
    branch.set(last, leaf);
    return leaf.series;
  }

  #leaf(labels: LabelValues): Leaf<S> {
    const leaf = { labels, series: this.#make() };
    this.leaves.push(leaf);
    return leaf;
  }
}

const NONE: LabelValues = {};

export class FastCounter {
  readonly name: string;
  readonly #description: Description;
  readonly #tree: SeriesTree<{ value: number }>;

  constructor(description: Description) {
    this.name = description.name;
    this.#description = description;
    this.#tree = new SeriesTree(description.labels, () => ({ value: 0 }));
  }

  inc(value: number, labels: LabelValues = NONE): void {
    this.#tree.get(labels).value += value;
  }

  async get(): Promise<Collected> {
    const { name, help } = this.#description;
    const values = this.#tree.leaves.map(({ series, labels }) => ({ metricName: name, labels, value: series.value }));
    return { name, help, type: "counter", aggregator: "sum", values };
  }
}

export class FastHistogram {
  readonly name: string;
  readonly #description: Description;
  readonly #bounds: readonly number[];
  readonly #tree: SeriesTree<{ sum: number; counts: number[] }>;

  /** `bounds` rise; what is above the last counts only as `+Inf`. */
  constructor(description: Description, bounds: readonly number[]) {
    this.name = description.name;
    this.#description = description;
    this.#bounds = bounds;
    this.#tree = new SeriesTree(description.labels, () => ({ sum: 0, counts: new Array(bounds.length + 1).fill(0) }));
  }

  observe(value: number, labels: LabelValues = NONE): void {
    const series = this.#tree.get(labels);
    let bucket = 0;
    while (bucket < this.#bounds.length && value > (this.#bounds[bucket] ?? 0)) bucket++;
    series.counts[bucket] = (series.counts[bucket] ?? 0) + 1;
    series.sum += value;
  }

  async get(): Promise<Collected> {
    const { name, help } = this.#description;
    const values = this.#tree.leaves.flatMap(({ series, labels }) => {
      let count = 0;
      const buckets = series.counts.map((own, i) => {
        count += own;
        return { metricName: `${name}_bucket`, labels: { le: this.#bounds[i] ?? "+Inf", ...labels }, value: count };
      });
      return [
        ...buckets,
        { metricName: `${name}_sum`, labels, value: series.sum },
        { metricName: `${name}_count`, labels, value: count },
      ];
    });
    return { name, help, type: "histogram", aggregator: "sum", values };
  }
}

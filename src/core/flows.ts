import { isEarlier, LEAD, pickFair } from "./fair-share.ts";
import { IdleFlows } from "./idle-flows.ts";
import { IndexedHeap } from "./indexed-heap.ts";
import type { Entry, FlowLine } from "./queue-entry.ts";
import { countBefore } from "./queue-estimate.ts";

/** The flows of one line, and which of their requests is next. A flow is here for as long as it has a request that waits or runs. */
export class Flows {
  readonly #flows = new Map<string, FlowLine>();
  /** Those with a request that could start: without a slot, and with one. */
  readonly #idle = new IdleFlows();
  readonly #busy = new Set<FlowLine>();
  /** Turns at which a flow that comes, or comes back, begins: nobody saves up turns while away. */
  #floor = 0;

  of(key: string): FlowLine {
    let flow = this.#flows.get(key);
    if (!flow) {
      flow = { running: 0, turns: this.#floor, waiting: [], ready: undefined };
      this.#flows.set(key, flow);
    }
    return flow;
  }

  get(key: string): FlowLine | undefined {
    return this.#flows.get(key);
  }

  forget(key: string): void {
    const flow = this.#flows.get(key);
    if (flow?.running === 0 && flow.waiting.length === 0) this.#flows.delete(key);
  }

  /** All who wait for a slot. */
  waiting(): Entry[] {
    return [...this.#flows.values()].flatMap((flow) => flow.waiting);
  }

  /** The flow with the most waiting requests, if those are more than `than`. */
  longest(than: number): FlowLine | undefined {
    let longest: FlowLine | undefined;
    for (const flow of this.#flows.values()) {
      if (flow.waiting.length > (longest?.waiting.length ?? than)) longest = flow;
    }
    return longest;
  }

  /** How many start before place `index` of this flow, if nothing changes. */
  countBefore(flow: FlowLine | undefined, index: number, deadline: number): number {
    return countBefore(this.#flows.values(), this.#floor, flow, index, deadline);
  }

  /** It lacks nothing but a slot now. */
  makeReady(entry: Entry): void {
    const { flow } = entry;
    flow.ready ??= new IndexedHeap<Entry>(isEarlier);
    flow.ready.add(entry);
    this.changed(flow);
  }

  unready(entry: Entry): void {
    const { flow } = entry;
    flow.ready?.remove(entry);
    this.changed(flow);
  }

  started(flow: FlowLine): void {
    flow.running++;
    flow.turns = Math.max(flow.turns, this.#floor) + 1;
    this.changed(flow);
  }

  ended(flow: FlowLine): void {
    flow.running--;
    this.changed(flow);
  }

  /** Puts it where a pick finds it: after every change of its head, its turns or its slots. */
  changed(flow: FlowLine): void {
    this.#idle.remove(flow);
    this.#busy.delete(flow);
    if (!flow.ready?.first) return;
    flow.turns = Math.max(flow.turns, this.#floor);
    if (flow.running === 0) this.#idle.add(flow);
    else this.#busy.add(flow);
  }

  /** Who gets a free one of `slots`. Looks at no more than LEAD + 1 flows without a slot, and at those with one. */
  pick(slots: number): Entry | undefined {
    const heads: Entry[] = [];
    for (const flow of [...this.#idle.best(LEAD), ...this.#busy]) {
      flow.turns = Math.max(flow.turns, this.#floor);
      if (flow.ready?.first) heads.push(flow.ready.first);
    }
    const picked = pickFair(heads, slots / this.#flows.size);
    if (picked) this.#floor = Math.max(this.#floor, picked.floor);
    return picked?.pick;
  }
}

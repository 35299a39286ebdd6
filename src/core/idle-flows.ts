import { isSooner } from "./fair-share.ts";
import { IndexedHeap } from "./indexed-heap.ts";
import type { FlowLine } from "./queue-entry.ts";

interface Group {
  turns: number;
  flows: IndexedHeap<FlowLine>;
}

/**
 * The flows that hold no slot and have a request that could start, grouped by the turns they had. `pickFair` needs to see the earliest
 * deadline of two groups only: those with the fewest turns, and those with LEAD more. With the flows that do hold a slot, of which there
 * are no more than slots, that makes a pick cheap however many wait.
 */
export class IdleFlows {
  readonly #groups = new Map<number, Group>();
  readonly #byTurns = new IndexedHeap<Group>((a, b) => a.turns < b.turns);
  readonly #groupOf = new Map<FlowLine, Group>();

  add(flow: FlowLine): void {
    let group = this.#groups.get(flow.turns);
    if (!group) {
      group = { turns: flow.turns, flows: new IndexedHeap(isHeadSooner) };
      this.#groups.set(flow.turns, group);
      this.#byTurns.add(group);
    }
    group.flows.add(flow);
    this.#groupOf.set(flow, group);
  }

  /** Also of a flow that has changed since it was added, or was not. */
  remove(flow: FlowLine): void {
    const group = this.#groupOf.get(flow);
    if (!group) return;
    this.#groupOf.delete(flow);
    group.flows.remove(flow);
    if (group.flows.size > 0) return;
    this.#groups.delete(group.turns);
    this.#byTurns.remove(group);
  }

  /** Those that can win: the earliest deadline of each group up to `lead` turns above the fewest. */
  best(lead: number): FlowLine[] {
    const fewest = this.#byTurns.first;
    if (!fewest) return [];
    const best: FlowLine[] = [];
    for (let turns = fewest.turns; turns <= fewest.turns + lead; turns++) {
      const first = this.#groups.get(turns)?.flows.first;
      if (first) best.push(first);
    }
    return best;
  }
}

function isHeadSooner(a: FlowLine, b: FlowLine): boolean {
  const [one, other] = [a.ready?.first, b.ready?.first];
  if (!one || !other) return one !== undefined;
  return isSooner(one, other);
}

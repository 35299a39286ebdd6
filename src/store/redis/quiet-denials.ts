import { type AuditData, denialOf } from "../../core/audit.ts";
import type { AdmitRequest, BudgetView } from "../../core/store.ts";

/** Runs of denials that wait at once; beyond it a run is told without its journal's knowing. */
const MOST = 1_000;

/** Of one episode, by one budget. */
interface Denials {
  who: string;
  data: AuditData & { count: number };
}

/** Denials that needed no question to the store, for its journals: brought along with the next call that is made anyway. */
export class QuietDenials {
  #byBudget = new Map<string, Denials>();

  note(request: AdmitRequest, budget: BudgetView): void {
    const { tenant, episode } = request;
    if (!episode) return;
    const who = `${tenant}/${episode.id}`;
    const key = keyOf(who, budget);
    const known = this.#byBudget.get(key);
    if (!known && this.#byBudget.size >= MOST) return;
    this.#byBudget.set(key, { who, data: denialOf(budget, request, 1 + (known?.data.count ?? 0)) });
  }

  /** All since the last time. */
  take(): Denials[] {
    const all = [...this.#byBudget.values()];
    this.#byBudget.clear();
    return all;
  }

  /** Nobody knows whether the store has heard of them: better told twice than not at all. */
  giveBack(all: readonly Denials[]): void {
    for (const denials of all) {
      const key = keyOf(denials.who, denials.data);
      const since = this.#byBudget.get(key);
      if (since) since.data.count += denials.data.count;
      else this.#byBudget.set(key, denials);
    }
  }
}

function keyOf(who: string, { scope, id }: AuditData | BudgetView): string {
  return `${who}\n${scope}\n${id}`;
}

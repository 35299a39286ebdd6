import { type AuditData, denialOf } from "../../core/audit.ts";
import type { AdmitRequest, BudgetView } from "../../core/store.ts";

/** Runs of denials that wait at once; beyond it a run is told without its journal's knowing. */
const MOST = 1_000;

/** Denials that needed no question to the store, for its journals: brought along with the next call that is made anyway. */
export class QuietDenials {
  #byBudget = new Map<string, { who: string; data: AuditData & { count: number } }>();

  note(request: AdmitRequest, budget: BudgetView): void {
    const { tenant, episode } = request;
    if (!episode) return;
    const who = `${tenant}/${episode.id}`;
    const key = `${who}\n${budget.scope}\n${budget.id}`;
    const known = this.#byBudget.get(key);
    if (!known && this.#byBudget.size >= MOST) return;
    this.#byBudget.set(key, { who, data: denialOf(budget, request, 1 + (known?.data.count ?? 0)) });
  }

  /** All since the last time. */
  take(): { who: string; data: AuditData }[] {
    const all = [...this.#byBudget.values()];
    this.#byBudget.clear();
    return all;
  }
}

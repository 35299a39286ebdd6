import type { AdmitRequest, BudgetClaim, BudgetView } from "../../core/store.ts";

/** Budgets that are remembered; the oldest is asked about again. */
const MOST = 10_000;

interface Spent {
  view: BudgetView;
  /** When it was seen, and until when it holds: spent tokens never come back inside of a window. */
  at: number;
  until: number;
}

/** Budgets that this router has seen spent: what they deny needs no question to the store. */
export class SpentBudgets {
  readonly #byKey = new Map<string, Spent>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** The budget that is known to deny the request. */
  denies(request: AdmitRequest): BudgetView | undefined {
    if (this.#byKey.size === 0) return undefined;
    const { tenant, episode, claims } = request;
    const own = episode && this.#find(episodeKey(tenant, episode.id));
    if (own && isTooLittle(own.view, request)) return this.#viewNow(own);
    for (const claim of claims) {
      const known = this.#find(claimKey(tenant, claim));
      if (known && isTooLittle({ ...known.view, limit: claim.limit }, request)) {
        return { ...this.#viewNow(known), limit: claim.limit };
      }
    }
    return undefined;
  }

  /** Keeps a denial of the store if it holds by what is spent alone, whatever comes back of what is reserved. */
  note(request: AdmitRequest, view: BudgetView): void {
    // Where nothing is spent, the episode may not even have begun: its limit is not settled yet.
    if (view.spent === 0 || !isTooLittle(view, request)) return;
    const { tenant, episode, claims } = request;
    const claim = claims.find((c) => c.scope === view.scope && c.id === view.id);
    const key = claim ? claimKey(tenant, claim) : episode && episodeKey(tenant, episode.id);
    if (key === undefined) return;
    const at = this.#now();
    this.#byKey.delete(key);
    this.#byKey.set(key, { view, at, until: at + (view.resetSeconds ?? Number.POSITIVE_INFINITY) * 1000 });
    const [oldest] = this.#byKey.keys();
    if (this.#byKey.size > MOST && oldest !== undefined) this.#byKey.delete(oldest);
  }

  /** Its budgets end with an episode. */
  forgetEpisode(tenant: string, id: string): void {
    const prefix = episodeKey(tenant, id);
    for (const key of this.#byKey.keys()) if (key.startsWith(prefix)) this.#byKey.delete(key);
  }

  /** Another server may know less. */
  clear(): void {
    this.#byKey.clear();
  }

  #find(key: string): Spent | undefined {
    const known = this.#byKey.get(key);
    if (known && known.until <= this.#now()) this.#byKey.delete(key);
    else return known;
  }

  #viewNow({ view, at }: Spent): BudgetView {
    const { resetSeconds } = view;
    if (resetSeconds === undefined) return view;
    return { ...view, resetSeconds: resetSeconds - (this.#now() - at) / 1000 };
  }
}

function isTooLittle({ limit, spent }: BudgetView, { clamp, minimum, worstCase }: AdmitRequest): boolean {
  return limit - spent < (clamp ? Math.min(minimum, worstCase) : worstCase);
}

function episodeKey(tenant: string, id: string): string {
  return `episode/${tenant}/${id}/`;
}

function claimKey(tenant: string, { scope, id, episodeId, windowSeconds = 0 }: BudgetClaim): string {
  if (episodeId !== undefined) return `${episodeKey(tenant, episodeId)}${scope}/${id}`;
  return `${scope}/${scope === "role" ? tenant : ""}/${id}/${windowSeconds}`;
}

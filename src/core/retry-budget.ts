/** Share of the live calls that may be in a retry. */
const RETRY_SHARE = 0.2;
/** So many may at any time: a pool with little traffic has to live through the loss of an instance, too. */
const RETRY_MINIMUM = 3;

/**
 * Bounds the retries of one router by its traffic, so that instances that fail get no storm on top: of the live calls at most a fifth, or
 * RETRY_MINIMUM, are in a retry at once. (Envoy's budget, in its defaults.)
 */
export class RetryBudget {
  #retrying = 0;

  /** Whether another of `live` calls may retry; it is then in a retry until `ended`. */
  begin(live: number): boolean {
    if (this.#retrying >= Math.max(RETRY_MINIMUM, Math.floor(live * RETRY_SHARE))) return false;
    this.#retrying++;
    return true;
  }

  ended(): void {
    this.#retrying--;
  }
}

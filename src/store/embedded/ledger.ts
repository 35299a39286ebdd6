import type { Usage } from "../../api/backend.ts";
import {
  chargeOf,
  chargesOf,
  type Limit,
  makeBucket,
  openWindow,
  resetSeconds,
  restore,
  settle,
} from "../../core/budget.ts";
import type { BudgetClaim, BudgetView } from "../../core/store.ts";
import type { Journal } from "./journal.ts";
import { type BucketRecord, type EpisodeRecord, newRow, type ReservationRecord, type Row } from "./records.ts";

export interface BucketLimit extends Limit<BucketRecord> {}

/** Buckets and open reservations. The rules are core/budget's; here is which bucket a claim means, and what must be written. */
export class Ledger {
  readonly #journal: Journal;
  readonly #buckets = new Map<string, BucketRecord>();
  /** Those that were asked for last: most claims are as the one before, and to make a key and look it up costs more than to compare. */
  readonly #latest: Partial<Record<BucketRecord["scope"], BucketRecord>> = {};
  readonly #open = new Map<string, ReservationRecord>();
  #nextBucket: number;
  #nextReservation: number;

  constructor(journal: Journal, next: { bucket: number; reservation: number }) {
    this.#journal = journal;
    this.#nextBucket = next.bucket;
    this.#nextReservation = next.reservation;
  }

  make(
    scope: BucketRecord["scope"],
    tenant: string,
    id: string,
    windowSeconds: number,
    episodeRow: number | null,
  ): BucketRecord {
    return { ...newRow(this.#nextBucket++), ...makeBucket(windowSeconds), scope, tenant, id, episodeRow };
  }

  /** The limit of a claim; `episode` is the one that the claim names, if any. */
  limitOf(claim: BudgetClaim, tenant: string, episode: EpisodeRecord | undefined): BucketLimit {
    const { scope, id, limit, windowSeconds = 0 } = claim;
    if (episode && claim.episodeId === episode.id) {
      const bucket = episode.roles.get(id) ?? this.make(scope, tenant, id, 0, episode.row);
      episode.roles.set(id, bucket);
      return { bucket, limit };
    }
    // A pool's tokens and a key's are not counted per tenant: the pool's are all tenants', a key is one.
    const owner = scope === "role" ? tenant : "";
    const latest = this.#latest[scope];
    if (latest?.id === id && latest.tenant === owner && latest.windowSeconds === windowSeconds)
      return { bucket: latest, limit };
    const key = `${scope}\n${owner}\n${id}\n${windowSeconds}`;
    const bucket = this.#buckets.get(key) ?? this.make(scope, owner, id, windowSeconds, null);
    this.#buckets.set(key, bucket);
    this.#latest[scope] = bucket;
    return { bucket, limit };
  }

  restoreBucket(bucket: BucketRecord): void {
    const { scope, tenant, id, windowSeconds } = bucket;
    this.#buckets.set(`${scope}\n${tenant}\n${id}\n${windowSeconds}`, bucket);
  }

  restoreReservation(reservation: ReservationRecord): void {
    restore(reservation.charges, reservation.tokens);
    this.#open.set(reservation.requestId, reservation);
  }

  find(requestId: string): ReservationRecord | undefined {
    return this.#open.get(requestId);
  }

  /** Oldest first. */
  open(): ReservationRecord[] {
    return [...this.#open.values()];
  }

  get openCount(): number {
    return this.#open.size;
  }

  /** Notes down what `reserve` has just reserved in `limits`. */
  hold(
    limits: readonly BucketLimit[],
    request: Omit<ReservationRecord, keyof Row | "charges" | "recovered">,
  ): ReservationRecord {
    const { requestId, tenant, instance, boot, tokens, episode, at, note } = request;
    const reservation: ReservationRecord = {
      row: this.#nextReservation++,
      gone: false,
      stored: false,
      place: -1,
      requestId,
      tenant,
      instance,
      boot,
      tokens,
      charges: chargesOf(limits),
      episode,
      at,
      note,
      recovered: false,
    };
    this.#open.set(requestId, reservation);
    this.#journal.admit(reservation);
    for (const { bucket } of limits) if (!bucket.stored) this.#journal.buckets.mark(bucket);
    return reservation;
  }

  /** Closes a reservation; `overrun` is what an instance used beyond it. */
  settle(reservation: ReservationRecord, usage: Usage | null): { used: number; overrun: boolean } {
    const { charges, tokens, requestId } = reservation;
    const result = chargeOf(usage, tokens);
    settle(charges, tokens, result.used);
    for (const { bucket } of charges) if (!bucket.gone) this.#journal.buckets.mark(bucket);
    this.#open.delete(requestId);
    reservation.gone = true;
    this.#journal.reservations.mark(reservation);
    return result;
  }

  drop(bucket: BucketRecord): void {
    bucket.gone = true;
    this.#journal.buckets.mark(bucket);
  }

  view({ bucket, limit }: BucketLimit, wallMs: number): BudgetView {
    openWindow(bucket, wallMs);
    const { scope, id, spent, reserved } = bucket;
    const reset = resetSeconds(bucket, wallMs);
    const view: BudgetView = { scope, id, limit, spent, reserved };
    if (reset !== undefined) view.resetSeconds = reset;
    return view;
  }
}

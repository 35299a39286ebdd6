import type { Bucket, Charge } from "../../core/budget.ts";
import type { Life } from "../../core/episode.ts";
import type { Binding, BudgetView, EpisodeSettings } from "../../core/store.ts";
import type { Bagged } from "../../lib/bag.ts";
import type { AdmitNote, AuditTail } from "./audit-log.ts";

/** What memory holds of one row of a table. Memory is the truth; the journal makes the table follow. `place`: among those that wait for that. */
export interface Row extends Bagged {
  /** Its key in the table: never used twice. */
  readonly row: number;
  /** Not to be in the table any more. */
  gone: boolean;
  /** In the table now. */
  stored: boolean;
}

export function newRow(row: number): Row {
  return { row, gone: false, stored: false, place: -1 };
}

export interface BucketRecord extends Row, Bucket {
  readonly scope: BudgetView["scope"];
  /** "" where all tenants share it. */
  readonly tenant: string;
  /** Of the episode, role, pool or key. */
  readonly id: string;
  /** The episode it lives and dies with. */
  readonly episodeRow: number | null;
}

export interface EpisodeRecord extends Row {
  readonly tenant: string;
  readonly id: string;
  readonly settings: EpisodeSettings;
  readonly metadata: Record<string, string>;
  /** Unix milliseconds. */
  readonly startedWall: number;
  life: Life;
  readonly bucket: BucketRecord;
  /** By role. */
  readonly roles: Map<string, BucketRecord>;
  lastProgress: { event: string; at: number };
  /** Of its latest event. */
  seq: number;
  audit: AuditTail;
  /** When somebody looks whether it is over, on the clock's scale; Infinity: nobody will. */
  wakeAt: number;
}

export interface ReservationRecord extends Row {
  readonly requestId: string;
  readonly tenant: string;
  instance: string;
  /** Which process of it, where that is known. */
  boot: string | undefined;
  readonly tokens: number;
  readonly charges: readonly Charge<BucketRecord>[];
  readonly episode: EpisodeRecord | undefined;
  /** Unix milliseconds. */
  readonly at: number;
  /** For the episode's journal. */
  readonly note: AdmitNote | undefined;
  /** Made by a process before this one: nothing runs for it. */
  readonly recovered: boolean;
}

export interface BindingRecord extends Row {
  value: Binding;
  /** On the clock's scale, in milliseconds. */
  usedAt: number;
  /** `lastUsedAt` as the table has it. */
  storedUse: number;
}

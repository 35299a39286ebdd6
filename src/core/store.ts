import type { Usage } from "../api/backend.ts";
import type { EndReason, ProgressEvent } from "../api/http.ts";
import type { AuditEntry } from "./audit.ts";

/**
 * What routers must agree on and must not lose: episodes, budgets, reservations, session bindings. Two homes: embedded (src/store/embedded,
 * node:sqlite) for one router, Redis (src/store/redis) for several. Every method is one atomic step. All reject with `store_unavailable` when the
 * store cannot be asked: the router then denies.
 *
 * `tenant` is the caller's key name, "" under auth.mode None. An id of another tenant does not exist.
 */
export interface StateStore {
  /**
   * The one step before dispatch: starts the episode when it is unknown, refuses when it has ended, reserves `worstCase` in every claim
   * or in none, binds the session. Durable when it resolves. The same requestId again, while it is not settled, is the same admission.
   * A session that another router has bound since this one looked stays there: the admission names the instance.
   */
  admit(request: AdmitRequest): Promise<Admission>;
  /**
   * Gives back what a reservation did not use. Only the first call for a requestId counts. `usage` null: the request never reached an
   * instance. Completion tokens are progress of its episode, event `llm_response`. Whoever asks sees it at once; a crash within the next moment may leave
   * the reservation open, which only counts more until it is proved.
   */
  settle(requestId: string, usage: Usage | null): Promise<void>;
  /** Reservations that no settle has closed, oldest first: after a crash, what the router must ask the instances about. */
  openReservations(): Promise<Reservation[]>;
  /** Those of them whose router is gone: somebody else must ask the instances about them. */
  abandonedReservations(): Promise<Reservation[]>;
  /**
   * Asked right before a dispatch. False: others may take this router for dead, and the reservation for one that nobody uses; nothing may
   * be spent on it any more.
   */
  holds(requestId: string): boolean;

  /** `invalid_request` when the id is active already, `episode_ended` when it has ended and is still remembered. */
  startEpisode(tenant: string, start: EpisodeStart): Promise<Episode>;
  episode(tenant: string, id: string): Promise<Episode | undefined>;
  /** Those of them that are known. One question, however many: a few hundred at most. */
  episodesById(asked: readonly { tenant: string; id: string }[]): Promise<Episode[]>;
  episodes(tenant: string): Promise<Episode[]>;
  /** Those of all tenants that run: what a router that starts has to watch. */
  activeEpisodes(): Promise<Episode[]>;
  /** Records progress, extends the deadline when it is near. `not_found`, `episode_ended`. */
  progress(tenant: string, id: string, event: ProgressEvent, detail?: string): Promise<Episode>;
  /** Ends it once; a second end returns the first. */
  endEpisode(tenant: string, id: string, reason: EndReason): Promise<Episode>;
  /** Events of one episode after sequence number `after`, oldest first, as far back as they are kept. */
  episodeEvents(tenant: string, id: string, after: number): Promise<EpisodeEvent[]>;
  /** The journal of one episode after sequence number `after`, oldest first, at most AUDIT_PAGE entries; none of one that is not known. */
  audit(tenant: string, id: string, after: number): Promise<AuditEntry[]>;
  /**
   * Called for every event of every episode, in order: the source of SSE, of heartbeat lines and of aborts on end. `isOurs`: a step of this
   * router caused it, so that one of several speaks of it.
   */
  onEpisodeEvent(listener: (episode: Episode, event: EpisodeEvent, isOurs: boolean) => void): () => void;
  /** True on one router of the pool: the one that writes the heartbeats of all episodes. Another takes over when it is gone. */
  heartbeatDuty(): boolean;

  /** What this router knows of the session: enough to place a request, since `admit` confirms it. */
  binding(tenant: string, sessionKey: string): Binding | undefined;
  bindings(tenant: string): Promise<Binding[]>;
  /**
   * The request goes to another instance, or process of it, than the one it was admitted for: after a crash that one must be asked what it
   * cost. Its session, if one is given, lives there from now on. Before the dispatch; durable when it resolves.
   */
  rebind(requestId: string, to: Placement, session?: Omit<Binding, "lastUsedAt">): Promise<void>;
  /** How many sessions are bound to each instance, over all tenants. */
  sessionCounts(): Promise<Map<string, number>>;
  dropBinding(tenant: string, sessionKey: string): Promise<boolean>;

  /** What is spent and reserved now; for status, headers and tests. */
  budget(claim: BudgetClaim, tenant: string): Promise<BudgetView>;
  close(): Promise<void>;
}

/** Where a request is to run, for recovery. */
export interface Placement {
  instance: string;
  /** Which process that is now: another one's word proves nothing. Absent where it is not known; then nothing may be sent there yet. */
  boot?: string;
}

export interface AdmitRequest extends Placement {
  /** Made by the router for one run, never the caller's: two runs with one id would share one reservation. */
  requestId: string;
  tenant: string;
  episode?: EpisodeStart & { id: string };
  /** `boundTo`: where the router knows it to live; absent when it knows of none. */
  session?: Omit<Binding, "lastUsedAt"> & { boundTo?: string };
  /** Of the caller, for the journal. */
  role?: string;
  claims: BudgetClaim[];
  /** Upper bound of prompt + completion, in tokens. */
  worstCase: number;
  /** Least that makes the request worth running (prompt bound + 1): with `clamp`, less than this left is a denial. */
  minimum: number;
  /** Reserve what is left, down to `minimum`, instead of denying. */
  clamp: boolean;
}

/** One limit that applies to a request. The episode's own limit is added by the store, which alone knows it. */
export interface BudgetClaim {
  scope: "role" | "pool" | "key";
  /** Role name, `pool`, or key name. */
  id: string;
  /** Role budgets count inside an episode; without one, inside the window. */
  episodeId?: string;
  /** Tokens; > 0. */
  limit: number;
  /** Fixed windows aligned to the Unix epoch; a window, once left, never opens again. Absent: for ever (or for the episode, where given). */
  windowSeconds?: number;
}

export interface BudgetView {
  scope: BudgetClaim["scope"] | "episode";
  id: string;
  limit: number;
  spent: number;
  reserved: number;
  /** Seconds to the next window, when there is one. */
  resetSeconds?: number;
}

export type Admission =
  /** `instance`: the one that was asked for, or the one that the session lives on. */
  | { ok: true; reserved: number; instance: string; episode?: Episode; budgets: BudgetView[] }
  | { ok: false; code: "budget_exhausted"; budget: BudgetView }
  | { ok: false; code: "episode_ended"; episode: Episode };

export interface Reservation {
  requestId: string;
  tenant: string;
  instance: string;
  tokens: number;
  episodeId?: string;
  /** As it was given. */
  boot?: string;
  /** Milliseconds since its admission, by the store's clock: the routers' own may differ from it, and from each other. */
  ageMs: number;
}

export interface Binding {
  tenant: string;
  /** Unique key of (tenant, role or agent, id); also the KV cache's key on the instance. */
  key: string;
  /** As the caller wrote it. */
  id: string;
  /** Role name, or `agent:<id>`, `instance:<id>` or `model:<name>`; "" where none was named. */
  role: string;
  instance: string;
  episodeId?: string;
  /** Unix milliseconds. */
  lastUsedAt: number;
}

/** How long an episode may run; all in seconds. `budgetTokens` 0 = no limit. */
export interface EpisodeSettings {
  timeoutSeconds: number;
  progressExtendSeconds: number;
  maxTimeoutSeconds: number;
  idleTimeoutSeconds: number;
  retainSeconds: number;
  budgetTokens: number;
}

export interface EpisodeStart {
  /** Absent: the store makes one (`ep_` and 128 random bits). */
  id?: string;
  settings: EpisodeSettings;
  metadata?: Record<string, string>;
}

export interface Episode {
  tenant: string;
  id: string;
  state: "active" | "ended";
  endReason?: EndReason;
  /** Unix milliseconds, as it was on the wall at the start; never used to decide. */
  startedAt: number;
  /** Milliseconds left by the clock that decides; 0 when ended. */
  remainingMs: number;
  /** From its start to its deadline, as far as that was moved, by the same clock; in milliseconds. */
  limitMs: number;
  extensions: number;
  tokensUsed: number;
  tokensReserved: number;
  lastProgress: { event: string; at: number };
  settings: EpisodeSettings;
  metadata: Record<string, string>;
}

export interface EpisodeEvent {
  /** From 1, without gaps, per episode: the SSE id. */
  seq: number;
  kind: "started" | "progress" | "extended" | "ended";
  /** Unix milliseconds. */
  at: number;
  data: Record<string, string | number>;
}

import type { Usage } from "../api/backend.ts";
import { DEFAULT_QUEUE_LIMIT, INSTANCE_HEADERS } from "../api/instance.ts";
import { RetryBudget } from "../core/retry-budget.ts";
import type { StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { ERRORS, LLMPoolError, messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { type Call, type Job, limitOf } from "./call.ts";
import { generateTranslation } from "./generate.ts";
import type { LiveCalls } from "./live.ts";
import type { RouterMetrics } from "./metrics.ts";
import type { Reaper } from "./reaper.ts";
import { type Outcome, Relay } from "./relay.ts";
import { ROUTES } from "./request.ts";
import type { RequestIds } from "./request-ids.ts";
import { type Seat, type Seats, SUSPECT_MS } from "./seats.ts";
import type { Upstreams } from "./upstream.ts";

/** Attempts at instances for one call, all before its first token. */
const MAX_ATTEMPTS = 3;

export interface AttemptsDeps {
  store: StateStore;
  seats: Seats;
  upstreams: Upstreams;
  live: LiveCalls<Call>;
  ids: RequestIds;
  reaper: Reaper;
  metrics: RouterMetrics;
  clock: Clock;
  log: Logger;
  /** Takes work that goes on after the answer. */
  later: (work: Promise<void>) => void;
}

/** An admitted call, from its place in a line to its settled reservation. */
export class Attempts {
  readonly #deps: AttemptsDeps;
  readonly #retries = new RetryBudget();

  constructor(deps: AttemptsDeps) {
    this.#deps = deps;
  }

  /**
   * Tries instances until one answers. Whatever happens, each reservation is settled once, by what is known of the tokens. An attempt that
   * may have cost something has used its reservation up: the next one needs another.
   */
  async run(call: Call, job: Job): Promise<void> {
    const { live, metrics, clock } = this.#deps;
    live.add(call);
    let settled = false;
    const settle = (usage: Usage | null) => {
      settled = true;
      return this.#settle(call, usage);
    };
    try {
      for (let tries = 1; ; ) {
        const { waitedMs } = call;
        const taken = this.#seat(call, job);
        const seat = taken instanceof Promise ? await taken : taken;
        const limit = limitOf(call).deadline;
        const outcome = await this.#dispatch(call, job, seat);
        call.relay = undefined;
        const waited = seat.waits;
        this.#waitsNoMore(call, seat);
        metrics.queueSeconds.observe((call.waitedMs - waitedMs) / 1000, { role: call.role });
        tellBreaker(seat, outcome);
        switch (outcome.kind) {
          case "answered":
            if (!job.request.stream)
              metrics.ttftSeconds.observe((clock.now() - call.startedAt) / 1000, { role: call.role });
            this.#release(call, seat, outcome.usage);
            await settle(outcome.usage);
            return;
          case "refused": {
            seat.release();
            // It waited there to an end that is none any more: the episode was extended meanwhile.
            if (outcome.error.code === "episode_deadline_exceeded" && limitOf(call).deadline > limit) continue;
            const isAway = outcome.error.code === "instance_unavailable";
            // It ends, and the next look at it says so: until then whoever comes goes elsewhere or waits, and is not refused.
            if (isAway) this.#avoid(job, seat);
            const again = isAway && this.#mayRetry(call, tries++);
            if (again && isFree(outcome.usage)) continue;
            if (outcome.usage === undefined) {
              settled = true;
              this.#deps.later(this.#prove(call, job, seat));
            } else await settle(outcome.usage);
            if (!again) throw outcome.error;
            await this.#renew(call, job, outcome.error);
            settled = false;
            continue;
          }
          case "unreachable": {
            this.#avoid(job, seat);
            seat.release();
            // One that waited there is as good as new: it goes on waiting.
            const again = waited || this.#mayRetry(call, tries++);
            if (again && !outcome.sent) continue;
            const error = unreachableError(seat, outcome.cause);
            if (outcome.sent) {
              settled = true;
              this.#deps.later(this.#prove(call, job, seat, waited));
            }
            if (!again) throw error;
            await this.#renew(call, job, error);
            settled = false;
            continue;
          }
          case "broken":
          case "aborted": {
            settled = true;
            const known = outcome.kind === "broken" ? outcome.usage : undefined;
            if (known) {
              seat.release();
              await this.#settle(call, known);
            } else this.#deps.later(this.#prove(call, job, seat).finally(() => seat.release()));
            throw outcome.kind === "broken" ? brokenError(outcome, job, seat) : call.cutOff;
          }
        }
      }
    } finally {
      live.remove(call);
      if (call.retries) this.#retries.ended();
      if (!settled) await settle(null);
    }
  }

  /** Nothing more goes there for a moment; a call that has no cache there goes elsewhere if it may. */
  #avoid(job: Job, { endpoint }: Seat): void {
    const { seats } = this.#deps;
    seats.suspect(endpoint);
    if (job.home === undefined) job.instance = seats.instead(job.instance, job.identity);
  }

  /** Counts what it allows, and what only the others' retries leave no room for. */
  #mayRetry(call: Call, tries: number): boolean {
    const { live, metrics } = this.#deps;
    if (tries >= MAX_ATTEMPTS) return false;
    if (!call.retries && !this.#retries.begin(live.size)) {
      metrics.retriesRefused.inc(1);
      return false;
    }
    call.retries = true;
    metrics.retries.inc(1);
    return true;
  }

  /** At once where nothing has to be waited for, as for most calls. */
  #seat(call: Call, job: Job): Seat | Promise<Seat> {
    const { identity, binding, instance } = job;
    const taken = this.#deps.seats.take({
      instance: instance.id,
      pinned: identity.instance !== undefined,
      flow: job.flow,
      limit: () => limitOf(call),
      waitedMs: call.waitedMs,
      onWait: (ticket) => {
        call.stage = "queued";
        call.ticket = ticket;
      },
      signal: () => call.signal,
      sessionKey: binding?.key,
    });
    return taken instanceof Promise
      ? taken.then((seat) => this.#seated(call, job, seat))
      : this.#seated(call, job, taken);
  }

  #seated(call: Call, job: Job, seat: Seat): Seat | Promise<Seat> {
    const { served } = call.answer;
    const { id } = seat.endpoint;
    served.instance = id;
    call.waitedMs += seat.waitedMs;
    served.queueMs = Math.round(call.waitedMs);
    const { instance, boot } = job.placed;
    const isPlaced = id === instance && seat.endpoint.uid === boot;
    if (!isPlaced || !this.#deps.store.holds(call.id)) return this.#reseat(call, job, seat);
    this.#sent(call, job, seat);
    return seat;
  }

  /** The store has it elsewhere, or for another process, or no more: it learns where it is sent before that happens. */
  async #reseat(call: Call, job: Job, seat: Seat): Promise<Seat> {
    const { store } = this.#deps;
    const { id, uid } = seat.endpoint;
    const { binding, placed } = job;
    try {
      if (id !== placed.instance || uid !== placed.boot) {
        const moved = id === placed.instance ? undefined : binding && { ...binding, instance: id };
        job.placed = { instance: id, boot: uid };
        await store.rebind(call.id, job.placed, moved);
      }
      if (!store.holds(call.id)) throw lapsedError();
    } catch (error) {
      seat.attempt.abandoned();
      seat.release();
      throw error;
    }
    this.#sent(call, job, seat);
    return seat;
  }

  #sent(call: Call, { home }: Job, { endpoint }: Seat): void {
    if (home !== undefined && endpoint.id !== home) {
      call.answer.served.rebound = true;
      this.#deps.metrics.rebinds.inc(1);
    }
    call.stage = "prefill";
    call.ticket = undefined;
    call.sentAt = this.#deps.clock.now();
  }

  #dispatch(call: Call, job: Job, seat: Seat): Promise<Outcome> {
    const { answer, route } = call;
    const translation = route === "/v1/generate" ? generateTranslation(answer, job.identity.sessionId) : undefined;
    const onPosition = (position: number) => this.#position(call, seat, position);
    const relay = new Relay(answer, () => this.#token(call), onPosition, translation);
    call.relay = relay;
    if (call.cutOff) relay.abort();
    const headers = headersOf(call, job, this.#deps.clock.now());
    this.#deps.upstreams.dispatch(seat.endpoint, ROUTES[route], headers, job.request.body, relay);
    return relay.outcome;
  }

  #release(call: Call, seat: Seat, usage: Usage): void {
    const now = this.#deps.clock.now();
    // Only a stream shows when its first token came.
    if (call.tokens === 0) seat.release();
    else seat.release({ usage, firstTokenMs: call.firstTokenAt - call.sentAt, totalMs: now - call.sentAt });
  }

  /** What the instance tells while the request waits there. */
  #position(call: Call, seat: Seat, position: number): void {
    if (position === 0) {
      this.#waitsNoMore(call, seat);
      return;
    }
    seat.waits = true;
    call.stage = "queued";
    call.position = position;
    call.queuedAt ??= this.#deps.clock.now();
  }

  #waitsNoMore(call: Call, seat: Seat): void {
    if (call.queuedAt === undefined) return;
    seat.waits = false;
    call.stage = "prefill";
    call.waitedMs += this.#deps.clock.now() - call.queuedAt;
    call.answer.served.queueMs = Math.round(call.waitedMs);
    call.queuedAt = undefined;
  }

  #token(call: Call): void {
    const { clock, metrics } = this.#deps;
    const now = clock.now();
    call.tokens += 1;
    call.stage = undefined;
    if (call.tokens === 1) call.firstTokenAt = now;
    if (call.tokens === 1) metrics.ttftSeconds.observe((now - call.startedAt) / 1000, { role: call.role });
    else metrics.gapSeconds.observe((now - call.lastTokenAt) / 1000, { role: call.role });
    call.lastTokenAt = now;
  }

  /** Reserves once more for the next attempt; throws `error` when there is no room for that. */
  async #renew(call: Call, job: Job, error: LLMPoolError): Promise<void> {
    const requestId = this.#deps.ids.next();
    // The session is bound by now, and moves with the reservation when the next seat is elsewhere.
    const { session: _, boot: __, ...ask } = job.ask;
    const { store, seats } = this.#deps;
    const placed = seats.placement(job.placed.instance);
    const admission = await store.admit({ ...ask, requestId, ...placed });
    if (!admission.ok) throw error;
    call.id = requestId;
    job.placed = placed;
    job.reserved = admission.reserved;
  }

  /** Asks the instance what a cut-off request really cost. `waited`: it had not begun, as far as the instance has told. */
  #prove(call: Call, job: Job, seat: Seat, waited = false): Promise<void> {
    const { id } = call;
    return this.#deps.reaper.prove({
      ...{ requestId: id, instance: seat.endpoint.id, boot: seat.endpoint.uid, isOurs: true, tokens: job.reserved },
      ...{ since: call.sentAt, waited },
      settle: (usage) => this.#settle(call, usage, id),
    });
  }

  async #settle(call: Call, usage: Usage | null, id = call.id): Promise<void> {
    const { store, metrics, log } = this.#deps;
    if (usage) {
      const labels = { role: call.role };
      metrics.promptTokens.inc(usage.promptTokens, labels);
      metrics.completionTokens.inc(usage.completionTokens, labels);
      metrics.cachedTokens.inc(usage.cachedTokens, labels);
    }
    try {
      await store.settle(id, usage);
    } catch (error) {
      // The reservation stays open and counts as spent; the next start of the router asks the instance about it.
      log.error("a reservation could not be settled", { request: id, err: messageOf(error) });
    }
  }
}

function isFree(usage: Usage | null | undefined): boolean {
  return usage === null || (usage !== undefined && usage.promptTokens + usage.completionTokens === 0);
}

function unreachableError({ endpoint }: Seat, cause: Error): LLMPoolError {
  return new LLMPoolError("instance_unavailable", `instance ${endpoint.id} cannot be reached`, {
    cause,
    retryAfterSeconds: SUSPECT_MS / 1000,
  });
}

function lapsedError(): LLMPoolError {
  return new LLMPoolError("store_unavailable", "the store was away for too long while this waited; send it again", {
    retryAfterSeconds: 1,
  });
}

/** With the connection of a session's instance its warm cache is most likely gone: the caller should know, and send the turn again. */
function brokenError(
  { error, lost }: Extract<Outcome, { kind: "broken" }>,
  { binding }: Job,
  { endpoint }: Seat,
): LLMPoolError {
  if (!lost || !binding) return error;
  const message = `instance ${endpoint.id} was lost, and with it the cache of session "${binding.id}"; send the turn again`;
  return new LLMPoolError("session_lost", message, { cause: error, retryAfterSeconds: 1 });
}

/** An answer shows a healthy instance, and so does an end that is this one request's own, such as its time; what was cut off shows nothing. */
function tellBreaker({ attempt }: Seat, outcome: Outcome): void {
  if (outcome.kind === "aborted") attempt.abandoned();
  else if (outcome.kind === "answered" || isOfRequest(outcome)) attempt.succeeded();
  else attempt.failed();
}

function isOfRequest(outcome: Outcome): boolean {
  const isTold = outcome.kind === "refused" || (outcome.kind === "broken" && !outcome.lost);
  return isTold && ERRORS[outcome.error.code].status !== 502;
}

/** What the instance is told beside the body. Durations only: no two machines' clocks agree. */
function headersOf(call: Call, { binding, flow, queueLimit, prefillTokens, reserved }: Job, now: number): string[] {
  const headers = [
    INSTANCE_HEADERS.requestId,
    call.id,
    INSTANCE_HEADERS.timeoutMs,
    String(Math.max(1, Math.floor(call.deadline - now))),
    INSTANCE_HEADERS.maxTotalTokens,
    String(reserved),
    INSTANCE_HEADERS.flow,
    flow,
  ];
  if (binding) headers.push(INSTANCE_HEADERS.session, binding.key);
  if (call.episodeEnd < call.deadline) {
    headers.push(INSTANCE_HEADERS.episodeMs, String(Math.max(0, Math.floor(call.episodeEnd - now))));
  }
  if (call.waitedMs >= 1) headers.push(INSTANCE_HEADERS.waitedMs, String(Math.floor(call.waitedMs)));
  if (prefillTokens > 0) headers.push(INSTANCE_HEADERS.prefillTokens, String(prefillTokens));
  if (queueLimit !== DEFAULT_QUEUE_LIMIT) headers.push(INSTANCE_HEADERS.queueLimit, String(queueLimit));
  return headers;
}

import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Usage } from "../api/backend.ts";
import { INSTANCE_HEADERS } from "../api/instance.ts";
import type { InstancePlan, PoolPlan } from "../core/plan/types.ts";
import { flowOf } from "../core/queue.ts";
import type { Admission, Binding, Episode, StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { ERRORS, type ErrorCode, LLMPoolError, messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { Answer } from "./answer.ts";
import { type Authenticate, type Caller, requireRole, requireScope } from "./auth.ts";
import { claimsOf, deniedError, worstCase } from "./budget.ts";
import { type EpisodeWatch, endedError, episodeSettings } from "./episodes.ts";
import { generateTranslation } from "./generate.ts";
import { type Identity, identify, ownerOf, sessionKey } from "./identify.ts";
import type { LiveCalls } from "./live.ts";
import type { RouterMetrics } from "./metrics.ts";
import { wholeReservation } from "./reaper.ts";
import { type Outcome, Relay } from "./relay.ts";
import { type InferenceRequest, parseRequest, ROUTES, type Route, readBody, withSystemPrompt } from "./request.ts";
import type { Seat, Seats } from "./seats.ts";
import type { Upstreams } from "./upstream.ts";

/** Attempts at instances for one call, all before its first token. */
const MAX_ATTEMPTS = 3;
const CLIENT_REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** The caller closed its connection; never sent, only told apart. */
const HANG_UP = new LLMPoolError("invalid_request", "the caller hung up");

export interface InferenceDeps {
  plan: () => PoolPlan;
  authenticate: () => Authenticate;
  store: StateStore;
  seats: Seats;
  upstreams: Upstreams;
  watch: EpisodeWatch;
  live: LiveCalls;
  metrics: RouterMetrics;
  clock: Clock;
  log: Logger;
}

/** One call to a model, from its first byte to its settled reservation. All of its state is here; it ends in `close` exactly once. */
interface Call {
  id: string;
  route: Route;
  answer: Answer;
  startedAt: number;
  /** Aborted with the LLMPoolError that the caller is to see, or HANG_UP. */
  abort: AbortController;
  role: string;
  /**
   * What it waits for; undefined once tokens flow. No closure: V8 puts a function literal that is assigned to a property among the old
   * objects, and what it can reach, here all of the call, stays until the next full collection.
   */
  stage: "queued" | "prefill" | undefined;
  /** In the line, from 1. */
  position: () => number;
  /** In lines, over all attempts, in milliseconds. */
  waitedMs: number;
  /** When the last attempt left for its instance. */
  sentAt: number;
  firstTokenAt: number;
  tokens: number;
  lastTokenAt: number;
}

/** Answers the three routes that reach a model. */
export class Inference {
  readonly #deps: InferenceDeps;
  readonly #open = new Set<Promise<void>>();

  constructor(deps: InferenceDeps) {
    this.#deps = deps;
  }

  handle(req: IncomingMessage, res: ServerResponse, route: Route): void {
    const running = this.#run(req, res, route);
    this.#open.add(running);
    void running.finally(() => this.#open.delete(running));
  }

  /** Resolves when no call runs and every reservation is settled. */
  async idle(): Promise<void> {
    while (this.#open.size > 0) await Promise.allSettled(this.#open);
  }

  async #run(req: IncomingMessage, res: ServerResponse, route: Route): Promise<void> {
    const { clock, metrics, log } = this.#deps;
    const id = `req_${randomUUID()}`;
    const asked = req.headers["x-request-id"];
    const answer = new Answer(res, typeof asked === "string" && CLIENT_REQUEST_ID.test(asked) ? asked : id);
    const call: Call = {
      id,
      route,
      answer,
      startedAt: clock.now(),
      abort: new AbortController(),
      role: "none",
      stage: undefined,
      position: nowhere,
      waitedMs: 0,
      sentAt: 0,
      firstTokenAt: 0,
      tokens: 0,
      lastTokenAt: 0,
    };
    res.on("close", () => {
      if (!res.writableFinished) call.abort.abort(HANG_UP);
    });
    let code: "ok" | "aborted" | ErrorCode = "ok";
    try {
      await this.#serve(call, req);
    } catch (thrown) {
      const error = call.abort.signal.aborted ? (call.abort.signal.reason as unknown) : thrown;
      if (!(error instanceof LLMPoolError))
        log.error("a call failed unexpectedly", { request: id, err: stackOf(error) });
      if (error === HANG_UP) {
        code = "aborted";
        answer.destroy();
      } else code = answer.fail(error);
    }
    const instance = answer.served.instance ?? "none";
    metrics.requests.inc(1, { role: call.role, instance, code });
    metrics.requestSeconds.observe((clock.now() - call.startedAt) / 1000, { role: call.role });
  }

  /** Reads and checks the call, admits it, and sets its limits: nothing before `#attempt` reaches an instance. */
  async #serve(call: Call, req: IncomingMessage): Promise<void> {
    const { store, clock, seats, watch } = this.#deps;
    const caller = this.#deps.authenticate()(req.headers.authorization);
    requireScope(caller, "inference");
    const plan = this.#deps.plan();
    const parsed = parseRequest(call.route, await readBody(req, plan.router.maxBodyBytes));
    const identity = identify(plan, req.headers, parsed.checked, parsed.generate);
    requireRole(caller, identity.role?.name);
    if (identity.role) {
      call.role = identity.role.name;
      call.answer.served.role = identity.role.name;
    }
    const request = withSystemPrompt(parsed, identity.role);
    if (identity.sessionId !== undefined) call.answer.served.session = identity.sessionId;
    const session = await this.#session(caller, identity);
    const instance = seats.choose(identity, session?.bound);
    const binding = session && { ...session.binding, instance: instance.id };
    const { worst, minimum, promptTokens } = worstCase(request, instance);
    const { episodeId } = identity;
    const admission = await store.admit({
      requestId: call.id,
      tenant: caller.tenant,
      instance: instance.id,
      claims: claimsOf(plan, caller, identity),
      worstCase: worst,
      minimum,
      clamp: identity.clampBudget,
      ...(episodeId !== undefined && { episode: { id: episodeId, settings: episodeSettings(plan) } }),
      ...(binding && { session: binding }),
    });
    if (!admission.ok) throw this.#denied(admission);
    const isNew = session?.bound === undefined;
    if (session && isNew) seats.bound(instance.id);

    const limitMs = Math.min(identity.timeoutMs ?? Number.POSITIVE_INFINITY, plan.router.requestTimeoutSeconds * 1000);
    const deadline = call.startedAt + limitMs;
    const stopTimer = clock.after(deadline - clock.now(), () => call.abort.abort(timeoutError(limitMs)));
    const untrack =
      episodeId === undefined ? () => {} : watch.track(caller.tenant, episodeId, (reason) => call.abort.abort(reason));
    try {
      await this.#attempt(call, {
        request,
        caller,
        identity,
        binding,
        instance,
        reserved: admission.reserved,
        episode: admission.episode,
        // Only a number that is exact, of a prompt that is surely cold, is a reason to refuse.
        prefillTokens: isNew && instance.backend === "stub" ? promptTokens : 0,
        leftInstance: !isNew && session.bound !== instance.id,
        deadline,
      });
    } finally {
      stopTimer();
      untrack();
    }
  }

  /** Tries instances until one answers. Whatever happens, the reservation is settled once, by what is known of the tokens. */
  async #attempt(call: Call, job: Job): Promise<void> {
    const { seats } = this.#deps;
    const unwatch = this.#watch(call, job);
    let settled = false;
    const settle = (usage: Usage | null) => {
      settled = true;
      return this.#settle(call, usage);
    };
    try {
      for (let attempt = 1; ; attempt++) {
        const seat = await this.#seat(call, job);
        const outcome = await this.#dispatch(call, job, seat);
        tellBreaker(seat, outcome);
        switch (outcome.kind) {
          case "answered":
            this.#release(call, seat, outcome.usage);
            await settle(outcome.usage);
            return;
          case "refused":
            seat.release();
            if (attempt < MAX_ATTEMPTS && isElsewhere(outcome.error)) continue;
            await settle(outcome.usage);
            throw outcome.error;
          case "unreachable":
            seats.suspect(seat.endpoint);
            seat.release();
            if (attempt < MAX_ATTEMPTS) continue;
            settled = true;
            this.#later(this.#prove(call, job, seat));
            throw new LLMPoolError("instance_unavailable", `instance ${seat.endpoint.id} cannot be reached`, {
              cause: outcome.cause,
              retryAfterSeconds: 1,
            });
          case "broken":
          case "aborted": {
            settled = true;
            const known = outcome.kind === "broken" ? outcome.usage : undefined;
            if (known) {
              seat.release();
              await this.#settle(call, known);
            } else this.#later(this.#prove(call, job, seat).finally(() => seat.release()));
            throw outcome.kind === "broken" ? brokenError(outcome, job) : call.abort.signal.reason;
          }
        }
      }
    } finally {
      unwatch();
      if (!settled) await settle(null);
    }
  }

  async #seat(call: Call, job: Job): Promise<Seat> {
    const { seats, store, clock, metrics } = this.#deps;
    const { caller, identity, binding, instance, episode, deadline } = job;
    const { signal } = call.abort;
    const episodeEnd = episode ? clock.now() + episode.remainingMs : Number.POSITIVE_INFINITY;
    const seat = await seats.take({
      instance: instance.id,
      pinned: identity.instance !== undefined,
      flow: flowOf(caller.tenant, identity.episodeId),
      deadline: Math.min(deadline, episodeEnd),
      deadlineCode: episodeEnd < deadline ? "episode_deadline_exceeded" : "request_timeout",
      prefillTokens: job.prefillTokens,
      onWait: (position) => {
        call.stage = "queued";
        call.position = position;
      },
      signal,
      ...(binding && { sessionKey: binding.key }),
    });
    const { served } = call.answer;
    served.instance = seat.endpoint.id;
    call.waitedMs += seat.waitedMs;
    served.queueMs = Math.round(call.waitedMs);
    metrics.queueSeconds.observe(seat.waitedMs / 1000, { role: call.role });
    if (seat.moved) await store.rebind(call.id, served.instance, binding && { ...binding, instance: served.instance });
    if (binding && (seat.moved || job.leftInstance)) {
      served.rebound = true;
      metrics.rebinds.inc(1);
    }
    call.stage = "prefill";
    call.sentAt = clock.now();
    return seat;
  }

  async #dispatch(call: Call, job: Job, seat: Seat): Promise<Outcome> {
    const { clock, metrics, upstreams } = this.#deps;
    const { answer, route, abort } = call;
    const translation = route === "/v1/generate" ? generateTranslation(answer, job.identity.sessionId) : undefined;
    const relay = new Relay(answer, { firstByte: () => {}, token: () => this.#token(call) }, translation);
    const cut = () => relay.abort();
    abort.signal.addEventListener("abort", cut, { once: true });
    if (abort.signal.aborted) relay.abort();
    const headers = [
      INSTANCE_HEADERS.requestId,
      call.id,
      INSTANCE_HEADERS.timeoutMs,
      String(Math.max(1, Math.floor(job.deadline - clock.now()))),
      INSTANCE_HEADERS.maxTotalTokens,
      String(job.reserved),
    ];
    if (job.binding) headers.push(INSTANCE_HEADERS.session, job.binding.key);
    upstreams.dispatch(seat.endpoint, ROUTES[route], headers, job.request.body, relay);
    const outcome = await relay.outcome;
    abort.signal.removeEventListener("abort", cut);
    if (outcome.kind === "answered" && !job.request.stream) {
      metrics.ttftSeconds.observe((clock.now() - call.startedAt) / 1000, { role: call.role });
    }
    return outcome;
  }

  #release(call: Call, seat: Seat, usage: Usage): void {
    const now = this.#deps.clock.now();
    // Only a stream shows when its first token came.
    if (call.tokens === 0) seat.release();
    else seat.release({ usage, firstTokenMs: call.firstTokenAt - call.sentAt, totalMs: now - call.sentAt });
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

  #watch(call: Call, { request, caller, identity }: Job): () => void {
    const { live, store, log } = this.#deps;
    return live.add({
      answer: call.answer,
      startedAt: call.startedAt,
      streaming: request.stream,
      stage: () => (call.stage === "queued" ? `queued ${call.position()}` : call.stage),
      tokens: () => call.tokens,
      onTokens: () => {
        if (identity.episodeId === undefined) return;
        store.progress(caller.tenant, identity.episodeId, "token_usage").catch((error: unknown) => {
          log.debug("progress was not recorded", { err: messageOf(error) });
        });
      },
      onUnread: () => call.abort.abort(HANG_UP),
    });
  }

  /** Asks the instance what a cut-off request really cost. When nobody is left to prove less, the whole reservation is spent. */
  async #prove(call: Call, job: Job, seat: Seat): Promise<void> {
    const { upstreams, metrics, log } = this.#deps;
    let usage: Usage | null;
    try {
      const record = await upstreams.record(seat.endpoint, call.id);
      usage = "usage" in record ? record.usage : null;
    } catch (error) {
      metrics.unproved.inc(1);
      log.warn("nobody can say what a cut-off request cost; its whole reservation is charged", {
        request: call.id,
        instance: seat.endpoint.id,
        tokens: job.reserved,
        err: messageOf(error),
      });
      usage = wholeReservation(job.reserved);
    }
    await this.#settle(call, usage);
  }

  async #settle(call: Call, usage: Usage | null): Promise<void> {
    const { store, metrics, log } = this.#deps;
    if (usage) {
      const labels = { role: call.role };
      metrics.promptTokens.inc(usage.promptTokens, labels);
      metrics.completionTokens.inc(usage.completionTokens, labels);
      metrics.cachedTokens.inc(usage.cachedTokens, labels);
    }
    try {
      await store.settle(call.id, usage);
    } catch (error) {
      // The reservation stays open and counts as spent; the next start of the router asks the instance about it.
      log.error("a reservation could not be settled", { request: call.id, err: messageOf(error) });
    }
  }

  /** The session that the request names, and the instance it is bound to, if it is. Refuses when the caller says another. */
  async #session(
    caller: Caller,
    identity: Identity,
  ): Promise<{ binding: Omit<NewBinding, "instance">; bound: string | undefined } | undefined> {
    const { sessionId, episodeId } = identity;
    if (sessionId === undefined) return undefined;
    const { tenant } = caller;
    const role = ownerOf(identity);
    const key = sessionKey(tenant, role, sessionId);
    const bound = (await this.#deps.store.binding(tenant, key))?.instance;
    const asked = identity.instance?.id;
    if (bound !== undefined && asked !== undefined && asked !== bound) {
      throw new LLMPoolError(
        "invalid_request",
        `session "${sessionId}" lives on instance ${bound}, not on ${asked}; leave the instance out, or use another session`,
        { param: "x-llmpool-instance" },
      );
    }
    return { binding: { tenant, key, id: sessionId, role, ...(episodeId !== undefined && { episodeId }) }, bound };
  }

  #denied(admission: Extract<Admission, { ok: false }>): LLMPoolError {
    if (admission.code === "episode_ended") return endedError(admission.episode);
    this.#deps.metrics.denials.inc(1, { scope: admission.budget.scope });
    return deniedError(admission.budget);
  }

  /** Work that goes on after the answer; `idle` waits for it. */
  #later(work: Promise<void>): void {
    this.#open.add(work);
    void work.finally(() => this.#open.delete(work));
  }
}

const nowhere = () => 0;

type NewBinding = Omit<Binding, "lastUsedAt">;

/** What an admitted call needs to run. */
interface Job {
  request: InferenceRequest;
  caller: Caller;
  identity: Identity;
  binding: NewBinding | undefined;
  instance: InstancePlan;
  /** Tokens set aside: the instance's hard limit. */
  reserved: number;
  episode: Episode | undefined;
  /** Prompt tokens that no warm cache can spare. */
  prefillTokens: number;
  /** Where the session was bound is no longer in the plan. */
  leftInstance: boolean;
  /** On the clock's scale. */
  deadline: number;
}

/** With the connection of a session's instance its warm cache is most likely gone: the caller should know, and send the turn again. */
function brokenError({ error, lost }: Extract<Outcome, { kind: "broken" }>, { binding }: Job): LLMPoolError {
  if (!lost || !binding) return error;
  const message = `instance ${binding.instance} was lost, and with it the cache of session "${binding.id}"; send the turn again`;
  return new LLMPoolError("session_lost", message, { cause: error, retryAfterSeconds: 1 });
}

/** An answer, or a refusal of this one request, shows a healthy instance; what was cut off shows nothing. */
function tellBreaker({ attempt }: Seat, outcome: Outcome): void {
  if (outcome.kind === "aborted") attempt.abandoned();
  else if (outcome.kind === "answered" || (outcome.kind === "refused" && ERRORS[outcome.error.code].status !== 502)) {
    attempt.succeeded();
  } else attempt.failed();
}

/** Refusals that say nothing about the request: another instance, or the same a moment later, can take it. */
function isElsewhere(error: LLMPoolError): boolean {
  return error.code === "instance_unavailable" || error.code === "queue_full";
}

function timeoutError(limitMs: number): LLMPoolError {
  return new LLMPoolError("request_timeout", `the request did not end within ${limitMs / 1000} s`, {
    param: "x-request-timeout",
  });
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

import type { IncomingMessage, ServerResponse } from "node:http";
import type { InstancePlan, PoolPlan } from "../core/plan/types.ts";
import { flowOf } from "../core/queue.ts";
import type { Admission, AdmitRequest } from "../core/store.ts";
import { type ErrorCode, LLMPoolError } from "../lib/errors.ts";
import { Answer } from "./answer.ts";
import { Attempts, type AttemptsDeps } from "./attempts.ts";
import { type Authenticate, type Caller, requireRole, requireScope } from "./auth.ts";
import { claimsOf, deniedError, tightestOf, worstCase } from "./budget.ts";
import { Call, HANG_UP, limitOf, type NewBinding } from "./call.ts";
import { type EpisodeWatch, endedError, episodeSettings } from "./episodes.ts";
import { type Identity, identify, ownerOf, sessionKey } from "./identify.ts";
import { parseRequest, type Route, readBody, withSystemPrompt } from "./request.ts";
import { shownId } from "./request-ids.ts";

export interface InferenceDeps extends Omit<AttemptsDeps, "later"> {
  plan: () => PoolPlan;
  authenticate: () => Authenticate;
  watch: EpisodeWatch;
}

/** Answers the three routes that reach a model. */
export class Inference {
  readonly #deps: InferenceDeps;
  readonly #attempts: Attempts;
  #running = 0;
  #whenIdle: PromiseWithResolvers<void> | undefined;

  constructor(deps: InferenceDeps) {
    this.#deps = deps;
    this.#attempts = new Attempts({ ...deps, later: (work) => this.#later(work) });
  }

  handle(req: IncomingMessage, res: ServerResponse, route: Route): void {
    this.#running++;
    void this.#run(req, res, route);
  }

  /** Resolves when no call runs and every reservation is settled. */
  async idle(): Promise<void> {
    if (this.#running === 0) return;
    this.#whenIdle ??= Promise.withResolvers();
    await this.#whenIdle.promise;
  }

  async #run(req: IncomingMessage, res: ServerResponse, route: Route): Promise<void> {
    const { clock, metrics, log, ids } = this.#deps;
    const id = ids.next();
    const answer = new Answer(res, shownId(req, id));
    const call = new Call(id, route, answer, clock.now());
    res.on("close", () => {
      if (!res.writableFinished) call.abort(HANG_UP);
    });
    let code: "ok" | "aborted" | ErrorCode = "ok";
    try {
      await this.#serve(call, req);
    } catch (thrown) {
      const error = call.cutOff ?? thrown;
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
    this.#ended();
  }

  /** Reads and checks the call, admits it, and sets its limits: nothing before `run` reaches an instance. */
  async #serve(call: Call, req: IncomingMessage): Promise<void> {
    const { store, clock, seats, watch } = this.#deps;
    const caller = this.#deps.authenticate()(req.headers.authorization);
    requireScope(caller, "inference");
    const plan = this.#deps.plan();
    const parsed = parseRequest(call.route, await readBody(req, plan.router.maxBodyBytes));
    const identity = identify(plan, req.headers, parsed.checked, parsed.generate);
    requireRole(caller, identity);
    if (identity.role) {
      call.role = identity.role.name;
      call.answer.served.role = identity.role.name;
    }
    const request = withSystemPrompt(parsed, identity.role);
    if (identity.sessionId !== undefined) call.answer.served.session = identity.sessionId;
    const session = sessionOf(caller, identity);
    if (session) {
      session.bound = store.binding(caller.tenant, session.binding.key)?.instance;
      mustLiveThere(session, identity);
    }
    const chosen = seats.choose(identity, session?.bound);
    const { worst, minimum, promptTokens } = worstCase(request, chosen);
    const { episodeId } = identity;
    call.tenant = caller.tenant;
    call.episodeId = episodeId;
    call.streaming = request.stream;
    const ask: AdmitRequest = {
      requestId: call.id,
      tenant: caller.tenant,
      ...seats.placement(chosen.id),
      claims: claimsOf(plan, caller, identity),
      worstCase: worst,
      minimum,
      clamp: identity.clampBudget,
    };
    if (episodeId !== undefined) {
      ask.episode = { id: episodeId, settings: episodeSettings(plan) };
      ask.role = ownerOf(identity);
    }
    if (session) {
      ask.session = { ...session.binding, instance: chosen.id };
      if (session.bound !== undefined) ask.session.boundTo = session.bound;
    }
    const admission = await store.admit(ask);
    if (!admission.ok) throw this.#denied(call, admission, ask, identity);
    const tightest = tightestOf(admission.budgets);
    if (tightest) call.answer.served.budget = tightest;
    const isElsewhere = session !== undefined && admission.instance !== chosen.id;
    if (isElsewhere) session.bound = admission.instance;
    const instance = isElsewhere ? await this.#follow(call, identity, session) : chosen;
    const binding = session && { ...session.binding, instance: instance.id };
    const isNew = session?.bound === undefined;
    if (session && isNew) seats.bound(instance.id);

    const limitMs = Math.min(identity.timeoutMs ?? Number.POSITIVE_INFINITY, plan.router.requestTimeoutSeconds * 1000);
    call.deadline = call.startedAt + limitMs;
    if (admission.episode) call.episodeEnd = clock.now() + admission.episode.remainingMs;
    const untrack =
      episodeId === undefined
        ? () => {}
        : watch.track(caller.tenant, episodeId, {
            place: -1,
            ended: (reason) => call.abort(reason),
            extended: (remainingMs) => {
              call.episodeEnd = clock.now() + remainingMs;
              const { deadline, code } = limitOf(call);
              call.ticket?.setDeadline(deadline, code);
            },
          });
    try {
      await this.#attempts.run(call, {
        request,
        caller,
        identity,
        binding,
        instance,
        ask,
        placed: isElsewhere ? { instance: instance.id } : ask,
        reserved: admission.reserved,
        flow: flowOf(caller.tenant, episodeId),
        queueLimit: plan.router.queuePerInstance,
        // Only a number that is exact, of a prompt that is surely cold, is a reason to refuse.
        prefillTokens: isNew && instance.backend === "stub" ? promptTokens : 0,
        home: session?.bound,
      });
    } finally {
      untrack();
    }
  }

  /** Another router had bound the session: it goes on there, or, if that instance is no more, moves from there. */
  async #follow(call: Call, identity: Identity, { binding, bound }: Session): Promise<InstancePlan> {
    const { store, seats } = this.#deps;
    try {
      mustLiveThere({ binding, bound }, identity);
      const instance = seats.choose(identity, bound);
      if (instance.id !== bound)
        await store.rebind(call.id, seats.placement(instance.id), { ...binding, instance: instance.id });
      return instance;
    } catch (error) {
      await store.settle(call.id, null).catch(() => {}); // the store keeps it, and brings it when it can
      throw error;
    }
  }

  #denied(
    { answer }: Call,
    admission: Extract<Admission, { ok: false }>,
    ask: AdmitRequest,
    { episodeFrom }: Identity,
  ): LLMPoolError {
    if (admission.code === "episode_ended") return endedError(admission.episode, episodeFrom);
    answer.served.budget = admission.budget;
    this.#deps.metrics.denials.inc(1, { scope: admission.budget.scope });
    return deniedError(admission.budget, ask);
  }

  /** Work that goes on after the answer; `idle` waits for it. */
  #later(work: Promise<void>): void {
    this.#running++;
    void work.finally(this.#ended);
  }

  #ended = (): void => {
    this.#running--;
    if (this.#running > 0) return;
    this.#whenIdle?.resolve();
    this.#whenIdle = undefined;
  };
}

/** The session that a request names, and the instance it is known to live on. */
interface Session {
  binding: Omit<NewBinding, "instance">;
  bound: string | undefined;
}

function sessionOf({ tenant }: Caller, identity: Identity): Session | undefined {
  const { sessionId, episodeId } = identity;
  if (sessionId === undefined) return undefined;
  const role = ownerOf(identity);
  const binding: Session["binding"] = { tenant, key: sessionKey(tenant, role, sessionId), id: sessionId, role };
  if (episodeId !== undefined) binding.episodeId = episodeId;
  return { binding, bound: undefined };
}

/** Refuses a caller who names another instance than the session's. */
function mustLiveThere({ binding, bound }: Session, { instance }: Identity): void {
  if (bound === undefined || !instance || instance.id === bound) return;
  throw new LLMPoolError(
    "invalid_request",
    `session "${binding.id}" lives on instance ${bound}, not on ${instance.id}; leave the instance out, or use another session`,
    { param: "x-llmpool-instance" },
  );
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

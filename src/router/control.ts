import express, { type ErrorRequestHandler, type Express, type Request, type Response } from "express";
import type { z } from "zod";
import {
  type AuditObject,
  EpisodeCreate,
  Id,
  type InstanceObject,
  type List,
  ProgressReport,
  type SessionObject,
} from "../api/http.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import type { Binding, Episode, StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { LLMPoolError, toErrorBody } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { type Authenticate, type Caller, requireScope, type Scope } from "./auth.ts";
import { type EpisodeWatch, endedError, episodeSettings } from "./episodes.ts";
import { check, parseObject, ROUTES, readBody } from "./request.ts";
import { auditObject, episodeObject, sessionObject } from "./views.ts";

export interface ControlDeps {
  plan: () => PoolPlan;
  authenticate: () => Authenticate;
  store: StateStore;
  watch: EpisodeWatch;
  clock: Clock;
  log: Logger;
  instances: () => InstanceObject[];
  /** Aborts what the session runs, frees its KV cache, forgets its binding. */
  freeSession: (binding: Binding) => Promise<void>;
  /** Why the router is not ready; undefined when it is. */
  notReady: () => string | undefined;
  expose: () => Promise<{ text: string; contentType: string }>;
}

/** What there is, for whoever typed something else. */
const CALLS: readonly string[] = [
  ...Object.keys(ROUTES),
  "/v1/models",
  "/v1/instances",
  "/v1/sessions",
  "/v1/episodes",
];

type Handler = (req: Request, res: Response, caller: Caller) => Promise<void> | void;

/** Everything that is not inference. Express 5 hands rejections to the error handler by itself. */
export function makeControl(deps: ControlDeps): Express {
  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.set("query parser", "simple");

  probes(app, deps);
  const guard = guarded(deps);
  app
    .route("/v1/models")
    .get(guard("read", (_req, res) => void res.json(models(deps.plan()))))
    .all(only("GET"));
  app
    .route("/v1/instances")
    .get(guard("read", (_req, res) => void res.json(list(deps.instances()))))
    .all(only("GET"));
  sessions(app, deps, guard);
  episodes(app, deps, guard);

  app.use((req: Request) => {
    throw new LLMPoolError("not_found", `there is no ${req.path}${insteadOf(req.path)}`);
  });
  app.use(errors(deps.log));
  return app;
}

function probes(app: Express, { notReady, expose }: ControlDeps): void {
  app
    .route("/healthz")
    .get((_req, res) => void res.json({ status: "ok" }))
    .all(only("GET"));
  app
    .route("/readyz")
    .get((_req, res) => {
      const reason = notReady();
      res
        .status(reason === undefined ? 200 : 503)
        .json(reason === undefined ? { status: "ready" } : { status: "waiting", reason });
    })
    .all(only("GET"));
  app
    .route("/metrics")
    .get(async (_req, res) => {
      const { text, contentType } = await expose();
      res.set("content-type", contentType).send(text);
    })
    .all(only("GET"));
}

function sessions(app: Express, deps: ControlDeps, guard: Guard): void {
  const { store } = deps;
  app
    .route("/v1/sessions")
    .get(
      guard("read", async (_req, res, { tenant }) => {
        const data = (await store.bindings(tenant)).map(sessionObject);
        res.json(list<SessionObject>(data));
      }),
    )
    .all(only("GET"));
  app
    .route("/v1/sessions/:id")
    .delete(
      guard("inference", async (req, res, { tenant }) => {
        const id = idOf(req);
        // One id can be a session of several roles: the caller means the conversation, so all of them go.
        const bound = (await store.bindings(tenant)).filter((b) => b.id === id);
        if (bound.length === 0) throw new LLMPoolError("not_found", `no session "${id}"`, { param: "id" });
        for (const binding of bound) await deps.freeSession(binding);
        res.json({ object: "session", id, deleted: true });
      }),
    )
    .all(only("DELETE"));
}

function episodes(app: Express, deps: ControlDeps, guard: Guard): void {
  const { store, plan, clock, watch } = deps;
  const views = async (tenant: string, all: readonly Episode[]) => {
    const bound = Map.groupBy(await store.bindings(tenant), ({ episodeId }) => episodeId);
    return all.map((episode) => {
      const sessions = (bound.get(episode.id) ?? []).map(({ id }) => id);
      return episodeObject(episode, sessions, clock.wall());
    });
  };
  const view = async (tenant: string, episode: Episode) => (await views(tenant, [episode]))[0];
  const find = async (tenant: string, id: string) => {
    const episode = await store.episode(tenant, id);
    if (!episode) throw new LLMPoolError("not_found", `no episode "${id}"`, { param: "id" });
    return episode;
  };
  app
    .route("/v1/episodes")
    .post(
      guard("inference", async (req, res, { tenant }) => {
        const asked = await bodyOf(EpisodeCreate, req, plan());
        const { id, metadata } = asked;
        const episode = await store.startEpisode(tenant, {
          settings: episodeSettings(plan(), asked),
          ...(id === undefined ? {} : { id }),
          ...(metadata === undefined ? {} : { metadata }),
        });
        res.status(201).json(await view(tenant, episode));
      }),
    )
    .get(
      guard("read", async (_req, res, { tenant }) => {
        res.json(list(await views(tenant, await store.episodes(tenant))));
      }),
    )
    .all(only("GET, POST"));
  app
    .route("/v1/episodes/:id")
    .get(
      guard("read", async (req, res, { tenant }) => void res.json(await view(tenant, await find(tenant, idOf(req))))),
    )
    .delete(guard("inference", async (req, res, { tenant }) => end(req, res, tenant, "cancelled")))
    .all(only("GET, DELETE"));
  app
    .route("/v1/episodes/:id/finish")
    .post(guard("inference", async (req, res, { tenant }) => end(req, res, tenant, "finished")))
    .all(only("POST"));
  app
    .route("/v1/episodes/:id/progress")
    .post(
      guard("inference", async (req, res, { tenant }) => {
        const { event, detail } = await bodyOf(ProgressReport, req, plan());
        const episode = await find(tenant, idOf(req));
        if (episode.state === "ended") throw endedError(episode);
        const after = event === "heartbeat" ? episode : await store.progress(tenant, episode.id, event, detail);
        res.json(await view(tenant, after));
      }),
    )
    .all(only("POST"));
  app
    .route("/v1/episodes/:id/events")
    .get(
      guard("read", async (req, res, { tenant }) => {
        await watch.stream(tenant, idOf(req), numberOf("last-event-id", req.get("last-event-id")), res);
      }),
    )
    .all(only("GET"));
  app
    .route("/v1/episodes/:id/audit")
    .get(
      guard("read", async (req, res, { tenant }) => {
        const { id } = await find(tenant, idOf(req));
        const entries = await store.audit(tenant, id, numberOf("after", req.query.after));
        res.json(list<AuditObject>(entries.map((entry) => auditObject(id, entry))));
      }),
    )
    .all(only("GET"));

  async function end(req: Request, res: Response, tenant: string, reason: "finished" | "cancelled"): Promise<void> {
    const episode = await find(tenant, idOf(req));
    if (episode.state === "ended") throw endedError(episode);
    res.json(await view(tenant, await store.endEpisode(tenant, episode.id, reason)));
  }
}

type Guard = (scope: Scope, handler: Handler) => (req: Request, res: Response) => Promise<void>;

function guarded(deps: ControlDeps): Guard {
  return (scope, handler) => async (req, res) => {
    const caller = deps.authenticate()(req.headers.authorization);
    requireScope(caller, scope);
    await handler(req, res, caller);
  };
}

function insteadOf(path: string): string {
  const meant = path.replace(/^(\/v1)*\//, "/v1/");
  if (meant !== path && CALLS.includes(meant)) return `, but ${meant}: a base URL ends in /v1, once`;
  return `; there are ${CALLS.join(", ")}`;
}

function only(allow: string) {
  return (req: Request, res: Response): void => {
    res.set("allow", allow);
    throw new LLMPoolError("method_not_allowed", `${req.path} takes ${allow}, not ${req.method}`);
  };
}

async function bodyOf<T>(schema: z.ZodType<T>, req: Request, plan: PoolPlan): Promise<T> {
  const bytes = await readBody(req, plan.router.maxBodyBytes);
  return check(schema, bytes.length === 0 ? {} : parseObject(bytes));
}

function idOf(req: Request): string {
  const parsed = Id.safeParse(req.params.id);
  if (!parsed.success)
    throw new LLMPoolError("invalid_request", `id ${parsed.error.issues[0]?.message}`, { param: "id" });
  return parsed.data;
}

/** A place in an order, which begins at 1; 0 when none is given. */
function numberOf(param: string, text: unknown): number {
  if (text === undefined) return 0;
  if (typeof text === "string" && /^\d{1,15}$/.test(text)) return Number(text);
  throw new LLMPoolError("invalid_request", `${param} must be a whole number`, { param });
}

/** Served models and, besides, the roles: what an SDK may put into `model`. */
function models(plan: PoolPlan): List<object> {
  const served = [...new Set(plan.variants.map((v) => v.modelName))];
  const row = (id: string) => ({ id, object: "model", created: 0, owned_by: `llmpool/${plan.pool}` });
  return list([...plan.roles.map((r) => row(r.name)), ...served.map(row)]);
}

function list<T>(data: T[]): List<T> {
  return { object: "list", data };
}

function errors(log: Logger): ErrorRequestHandler {
  return (error: unknown, req, res, _next) => {
    const { status, body, headers } = toErrorBody(
      error instanceof URIError ? new LLMPoolError("invalid_request", "bad escape in the path") : error,
    );
    if (status === 500)
      log.error("a control call failed", { request: res.get("x-request-id"), path: req.path, err: String(error) });
    if (res.headersSent) {
      res.destroy();
      return;
    }
    // What is left of a body that was refused is not read: the connection cannot carry another request.
    if (status === 413) res.set("connection", "close");
    res.status(status).set(headers).json(body);
  };
}

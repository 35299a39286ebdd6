import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { InstanceObject } from "../api/http.ts";
import type { EndpointSource } from "../core/endpoint.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import { flowOf } from "../core/queue.ts";
import type { Binding, StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { LLMPoolError, messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/logger.ts";
import { makeAuthenticate, type Secrets } from "./auth.ts";
import { type Call, HANG_UP, timeoutError } from "./call.ts";
import { makeControl } from "./control.ts";
import { EpisodeWatch } from "./episodes.ts";
import { Inference } from "./inference.ts";
import { LiveCalls } from "./live.ts";
import { makeRouterMetrics } from "./metrics.ts";
import { Reaper } from "./reaper.ts";
import { ROUTES, type Route } from "./request.ts";
import { RequestIds, shownId } from "./request-ids.ts";
import { Seats } from "./seats.ts";
import { ambiguity, Refusals } from "./strict-http.ts";
import { endOfTurn } from "./turn.ts";
import { Upstreams } from "./upstream.ts";

export interface RouterOptions {
  plan: PoolPlan;
  secrets: Secrets;
  /** Where the instances are. The router follows it; the caller closes it. */
  source: EndpointSource;
  /** The caller closes it, after the router. */
  store: StateStore;
  /** The pool's token, which instances ask for. */
  token: string;
  host: string;
  /** 0: the operating system chooses. */
  port: number;
  clock: Clock;
  log: Logger;
  /** Receives heartbeat lines. */
  writeLine: (line: string) => void;
  limits?: HttpLimits;
}

export interface Router extends AsyncDisposable {
  readonly url: string;
  /** Takes a new plan (and secrets) without dropping a request. Throws, and keeps the old one, when the keys are invalid. */
  update(plan: PoolPlan, secrets: Secrets): void;
  /** Throws, and keeps the old one, when it could not stand in a header. */
  setToken(token: string): void;
  instances(): InstanceObject[];
  /** Not ready at once, but serves on: whoever spreads callers over routers has time to hear of it. Connections end with their next answer. */
  leave(): void;
  /**
   * Not ready at once, no new work; open calls may end within `graceMs`, then they are cut off, and every reservation that can be
   * settled is. Idempotent; without a grace it also ends that of a call before.
   */
  close(graceMs?: number): Promise<void>;
}

/** How long callers may take; in milliseconds. */
export interface HttpLimits {
  /** To send the headers, and the whole request. */
  headersMs: number;
  requestMs: number;
  /** How often that is looked at. */
  checkMs: number;
}

const HTTP_LIMITS: HttpLimits = { headersMs: 15_000, requestMs: 60_000, checkMs: 5_000 };
/** Header block, in bytes; what does not fit is 431. */
const MAX_HEADER_BYTES = 16 * 1024;
/** Longer than the idle timeout of the usual load balancers, so that they close first. */
const KEEP_ALIVE_MS = 75_000;

/** Starts the data plane. Rejects when the port is taken or the keys are invalid, with what to do about it. */
export async function startRouter(options: RouterOptions): Promise<Router> {
  const { store, source, clock, log, limits = HTTP_LIMITS } = options;
  let { plan } = options;
  let authenticate = makeAuthenticate(plan.router.auth, options.secrets);
  let leaving = false;
  let closing: Promise<void> | undefined;

  const metrics = makeRouterMetrics(plan);
  const upstreams = new Upstreams(options.token, clock);
  const live = new LiveCalls<Call>({
    clock,
    onTokens: ({ tenant, episodeId }) => {
      if (episodeId === undefined) return;
      store.progress(tenant, episodeId, "token_usage").catch((error: unknown) => {
        log.debug("progress was not recorded", { err: messageOf(error) });
      });
    },
    onUnread: (call) => call.abort(HANG_UP),
    onTimeout: (call) => call.abort(timeoutError(call)),
    onOverdue: ({ tenant, episodeId }) => {
      if (episodeId !== undefined) void watch.overdue(tenant, episodeId);
    },
  });
  const seats = new Seats({ plan: () => plan, source, store, clock });
  const watch = new EpisodeWatch({
    store,
    clock,
    plan: () => plan,
    writeLine: options.writeLine,
    onRan: (tenant, episodeId, instance) => seats.visit(flowOf(tenant, episodeId), instance),
    instancesOf: (tenant, episodeId) => seats.visited(flowOf(tenant, episodeId)),
    onEnded: ({ tenant, id, endReason }, isOurs) => {
      seats.forget(flowOf(tenant, id));
      if (isOurs) metrics.episodesEnded.inc(1, { reason: endReason ?? "" });
    },
  });
  const reaper = new Reaper({ store, source, upstreams, clock, log, metrics });
  const ids = new RequestIds();
  const inference = new Inference({
    ids,
    plan: () => plan,
    authenticate: () => authenticate,
    store,
    seats,
    upstreams,
    watch,
    live,
    reaper,
    metrics,
    clock,
    log,
  });
  const stopRetaining = source.onChange(() => upstreams.retain(new Set(source.list().map((e) => e.uid))));
  await reaper.start();

  const control = makeControl({
    plan: () => plan,
    authenticate: () => authenticate,
    store,
    watch,
    clock,
    log,
    instances: () => seats.instances(),
    freeSession,
    notReady: () => (leaving ? "the router is shutting down" : seats.notReady()),
    expose: async () => {
      metrics.collect(seats.instances(), seats.cacheUsage(), watch.activeCount);
      return { text: await metrics.metrics.expose(), contentType: metrics.metrics.contentType };
    },
  });

  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: limits.headersMs,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: limits.checkMs,
      noDelay: true,
      // Else the second Host or Authorization of a request is dropped unseen.
      joinDuplicateHeaders: true,
    },
    onRequest,
  );
  const refusals = new Refusals();
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => refusals.malformed(error, socket));
  server.on("checkExpectation", (req: IncomingMessage, res: ServerResponse) => {
    refuse(req, res, new LLMPoolError("invalid_request", "Expect is not supported", { param: "expect" }));
  });
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  const url = await listen(server, options.host, options.port);
  await adoptEpisodes();

  /** Those of before: they beat, and say where they have sessions. */
  async function adoptEpisodes(): Promise<void> {
    const episodes = await store.activeEpisodes();
    watch.adopt(episodes);
    const flows = new Set(episodes.map(({ tenant, id }) => flowOf(tenant, id)));
    for (const tenant of new Set(episodes.map((episode) => episode.tenant))) {
      for (const { episodeId, instance } of await store.bindings(tenant)) {
        const flow = flowOf(tenant, episodeId);
        if (flows.has(flow)) seats.visit(flow, instance);
      }
    }
  }

  function onRequest(req: IncomingMessage, res: ServerResponse): void {
    if (refusals.ended(req.socket)) return;
    const problem = ambiguity(req);
    if (problem) {
      refuse(req, res, problem);
      return;
    }
    const path = pathOf(req.url ?? "/");
    // Node reads nothing more of a connection after an Upgrade that it does not follow.
    if (leaving || req.headers.upgrade !== undefined) res.shouldKeepAlive = false;
    if (!(path in ROUTES)) {
      nameIt(req, res);
      control(req, res);
    } else if (req.method !== "POST") {
      res.setHeader("allow", "POST");
      refuse(req, res, new LLMPoolError("method_not_allowed", `${path} takes POST, not ${req.method}`));
    } else if (closing !== undefined) {
      const error = new LLMPoolError("instance_unavailable", "the router is shutting down", { retryAfterSeconds: 1 });
      refuse(req, res, error);
    } else inference.handle(req, res, path as Route);
  }

  function refuse(req: IncomingMessage, res: ServerResponse, error: LLMPoolError): void {
    nameIt(req, res);
    refusals.refuse(req, res, error);
  }

  /** Inference does so by itself, in one piece with the rest. */
  function nameIt(req: IncomingMessage, res: ServerResponse): void {
    res.setHeader("x-request-id", shownId(req, ids.next()));
  }

  async function freeSession(binding: Binding): Promise<void> {
    await store.dropBinding(binding.tenant, binding.key);
    const endpoint = source.list().find((e) => e.id === binding.instance && e.url !== "");
    if (!endpoint) return;
    await upstreams.deleteSession(endpoint, binding.key).catch((error: unknown) => {
      // The binding is gone; the cache goes with the instance's own time limit.
      log.warn("a session's cache could not be freed now", { instance: binding.instance, err: messageOf(error) });
    });
  }

  async function close(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    watch.leave();
    const late = clock.after(graceMs, () => server.closeAllConnections());
    if (graceMs <= 0) server.closeAllConnections();
    await inference.idle();
    watch.close();
    await endOfTurn();
    // The last answers may not have left yet; who does not read them has no more time than the calls had.
    for (const socket of sockets) socket.destroySoon();
    await closed;
    late();
    stopRetaining();
    reaper.close();
    live.close();
    seats.close();
    await upstreams.close();
  }

  const router: Router = {
    url,
    instances: () => seats.instances(),
    update(next, secrets) {
      const nextAuthenticate = makeAuthenticate(next.router.auth, secrets);
      plan = next;
      authenticate = nextAuthenticate;
      metrics.follow(plan);
      seats.follow();
    },
    setToken: (token) => upstreams.setToken(token),
    leave() {
      leaving = true;
    },
    close: (graceMs = 0) => {
      leaving = true;
      if (closing !== undefined && graceMs === 0) server.closeAllConnections();
      closing ??= close(graceMs);
      return closing;
    },
    [Symbol.asyncDispose]: () => router.close(),
  };
  return router;
}

function listen(server: Server, host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const taken = error.code === "EADDRINUSE";
      reject(taken ? new Error(`port ${port} is taken; choose another with --port`, { cause: error }) : error);
    });
    server.listen(port, host, () => {
      const address = server.address() as AddressInfo;
      resolve(`http://${address.family === "IPv6" ? `[${address.address}]` : address.address}:${address.port}`);
    });
  });
}

/** Path without the query, which no inference route has a use for. */
function pathOf(url: string): string {
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}

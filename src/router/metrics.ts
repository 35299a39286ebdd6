import { END_REASONS, type InstanceObject } from "../api/http.ts";
import { INSTANCE_STATES } from "../api/instance.ts";
import type { PoolPlan } from "../core/plan/types.ts";
import { ERRORS } from "../lib/errors.ts";
import { type Metrics, makeMetrics, SECONDS_BUCKETS, TOKEN_GAP_BUCKETS } from "../lib/metrics.ts";

/** The sets that labels come from; roles and instances follow the plan. */
export interface LabelValues {
  roles: Set<string>;
  instances: Set<string>;
}

const CODES = new Set(["ok", "aborted", ...Object.keys(ERRORS)]);
const BUDGETS = new Set(["episode", "role", "pool", "key"]);

/** The router's series. `docs/metrics.md` lists them. */
export interface RouterMetrics extends ReturnType<typeof makeSeries> {
  readonly metrics: Metrics;
  /** Fills the gauges from what is there now. */
  collect(instances: readonly InstanceObject[], cacheUsage: number, episodes: number): void;
  /** Takes roles and instances of a new plan as label values. */
  follow(plan: PoolPlan): void;
}

export function makeRouterMetrics(plan: PoolPlan): RouterMetrics {
  const metrics = makeMetrics();
  metrics.addProcessMetrics();
  const values: LabelValues = { roles: new Set(), instances: new Set() };
  const follow = (next: PoolPlan) => {
    // Kept, not replaced: a series that has been counted stays what it was.
    values.roles.add("none");
    values.instances.add("none");
    for (const role of next.roles) values.roles.add(role.name);
    for (const variant of next.variants) for (const instance of variant.instances) values.instances.add(instance.id);
  };
  follow(plan);
  const series = makeSeries(metrics, values);
  return { ...series, metrics, follow, collect: (...now) => collect(series, ...now) };
}

function makeSeries(metrics: Metrics, { roles, instances }: LabelValues) {
  const state = new Set<string>(INSTANCE_STATES);
  return {
    requests: metrics.counter("llmpool_requests_total", "Inference calls, by how they ended.", {
      role: roles,
      instance: instances,
      code: CODES,
    }),
    queueSeconds: metrics.histogram("llmpool_queue_seconds", "Wait for a slot on the instance.", SECONDS_BUCKETS, {
      role: roles,
    }),
    ttftSeconds: metrics.histogram(
      "llmpool_time_to_first_token_seconds",
      "From the arrival of a streamed call to its first token.",
      SECONDS_BUCKETS,
      { role: roles },
    ),
    gapSeconds: metrics.histogram("llmpool_inter_token_seconds", "Between two streamed tokens.", TOKEN_GAP_BUCKETS, {
      role: roles,
    }),
    requestSeconds: metrics.histogram("llmpool_request_seconds", "Whole inference calls.", SECONDS_BUCKETS, {
      role: roles,
    }),
    promptTokens: metrics.counter("llmpool_prompt_tokens_total", "Prompt tokens, cached ones included.", {
      role: roles,
    }),
    completionTokens: metrics.counter("llmpool_completion_tokens_total", "Generated tokens.", { role: roles }),
    cachedTokens: metrics.counter("llmpool_cached_tokens_total", "Prompt tokens that were warm.", { role: roles }),
    denials: metrics.counter("llmpool_budget_denials_total", "Calls denied by a budget, by its scope.", {
      scope: BUDGETS,
    }),
    rebinds: metrics.counter("llmpool_session_rebinds_total", "Sessions that had to change their instance."),
    retries: metrics.counter(
      "llmpool_retries_total",
      "Attempts after the first of a call that failed before its first byte.",
    ),
    retriesRefused: metrics.counter(
      "llmpool_retries_refused_total",
      "Calls given up after a failed attempt because a fifth of the live calls, or three, were in a retry.",
    ),
    unproved: metrics.counter(
      "llmpool_unproved_settlements_total",
      "Reservations charged in full because the instance that could prove less was gone.",
    ),
    episodesEnded: metrics.counter(
      "llmpool_episodes_ended_total",
      "Episodes, by how they ended; one router counts for all.",
      {
        reason: new Set<string>(END_REASONS),
      },
    ),
    episodesActive: metrics.gauge("llmpool_episodes_active", "Episodes that run."),
    instanceState: metrics.gauge("llmpool_instance_state", "1 for the state that the instance is in.", {
      instance: instances,
      state,
    }),
    instanceRestarts: metrics.gauge("llmpool_instance_restarts", "Restarts since the pool began.", {
      instance: instances,
    }),
    sessions: metrics.gauge("llmpool_sessions", "Sessions bound to the instance.", { instance: instances }),
    queued: metrics.gauge("llmpool_queued_requests", "Calls that wait for the instance.", { instance: instances }),
    running: metrics.gauge("llmpool_running_requests", "Calls that run on the instance.", { instance: instances }),
    // What dashboards and gateways read from a model server, pool-wide: a gateway sees one large server.
    vllmRunning: metrics.gauge("vllm:num_requests_running", "Calls that run on the pool."),
    vllmWaiting: metrics.gauge("vllm:num_requests_waiting", "Calls that wait in the router."),
    vllmKvUsage: metrics.gauge(
      "vllm:kv_cache_usage_perc",
      "Share of the pool's places for warm sessions that is taken, 0 to 1.",
    ),
  };
}

function collect(
  series: ReturnType<typeof makeSeries>,
  all: readonly InstanceObject[],
  cacheUsage: number,
  episodes: number,
): void {
  // Instances come and go: what is no longer there must not keep its last value.
  for (const gauge of [series.instanceState, series.instanceRestarts, series.sessions, series.queued, series.running]) {
    gauge.reset();
  }
  let running = 0;
  let queued = 0;
  for (const { id, state, restarts, sessions, ...one } of all) {
    running += one.running;
    queued += one.queued;
    series.instanceState.set(1, { instance: id, state });
    series.instanceRestarts.set(restarts, { instance: id });
    series.sessions.set(sessions, { instance: id });
    series.queued.set(one.queued, { instance: id });
    series.running.set(one.running, { instance: id });
  }
  series.vllmRunning.set(running);
  series.vllmWaiting.set(queued);
  series.vllmKvUsage.set(cacheUsage);
  series.episodesActive.set(episodes);
}

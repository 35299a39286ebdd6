import { ERRORS } from "../../src/lib/errors.ts";
import { type Metrics, makeMetrics, SECONDS_BUCKETS, TOKEN_GAP_BUCKETS } from "../../src/lib/metrics.ts";
import type { Slots } from "./slots.ts";
import type { InstanceStatus } from "./status.ts";

/** How a request ended: `ok`, `aborted` (the client left), or an error's code. */
const CODES = new Set(["ok", "aborted", ...Object.keys(ERRORS)]);

export type InstanceMetrics = ReturnType<typeof makeInstanceMetrics>;

/** An instance's series; docs/instance-protocol.md lists them. */
export function makeInstanceMetrics(status: InstanceStatus, slots: Slots) {
  const metrics = makeMetrics();
  metrics.addProcessMetrics();
  addReadGauges(metrics, status, slots);
  return {
    metrics,
    requests: metrics.counter("llmpool_instance_requests_total", "Inference requests by how they ended.", {
      code: CODES,
    }),
    promptTokens: metrics.counter("llmpool_instance_prompt_tokens_total", "Prompt tokens, cached ones included."),
    cachedTokens: metrics.counter(
      "llmpool_instance_cached_tokens_total",
      "Prompt tokens found in a session's KV cache.",
    ),
    completionTokens: metrics.counter("llmpool_instance_completion_tokens_total", "Generated tokens."),
    firstToken: metrics.histogram(
      "llmpool_instance_time_to_first_token_seconds",
      "From a request's arrival to its first token.",
      SECONDS_BUCKETS,
    ),
    tokenGap: metrics.histogram(
      "llmpool_instance_inter_token_seconds",
      "Between two outputs of one request, per token.",
      TOKEN_GAP_BUCKETS,
    ),
    warmup: metrics.gauge("llmpool_instance_warmup_seconds", "How long the warm-up inference took."),
  };
}

/** Gauges that are read when somebody asks. The `vllm:` names are those that gateways and dashboards look for on a model server. */
function addReadGauges(metrics: Metrics, status: InstanceStatus, slots: Slots): void {
  const models = new Set<string>();
  const model = { model_name: models };
  const ready = metrics.gauge("llmpool_instance_ready", "1 while the instance takes work.");
  const running = metrics.gauge("llmpool_instance_requests_running", "Requests that compute.");
  const waiting = metrics.gauge("llmpool_instance_requests_waiting", "Requests that wait for a slot or their session.");
  const sessions = metrics.gauge("llmpool_instance_sessions", "KV caches in memory.");
  const kvUsage = metrics.gauge("llmpool_instance_kv_usage_ratio", "Used share of all KV cells.");
  const vllmRunning = metrics.gauge("vllm:num_requests_running", "Same as llmpool_instance_requests_running.", model);
  const vllmWaiting = metrics.gauge("vllm:num_requests_waiting", "Same as llmpool_instance_requests_waiting.", model);
  const vllmKv = metrics.gauge("vllm:kv_cache_usage_perc", "Same as llmpool_instance_kv_usage_ratio.", model);
  metrics.onCollect(() => {
    ready.set(status.state === "Ready" ? 1 : 0);
    running.set(slots.running);
    waiting.set(slots.waiting);
    const { backend } = status;
    if (!backend) return;
    const stats = backend.stats();
    sessions.set(stats.sessions);
    kvUsage.set(stats.kvUsage);
    const labels = { model_name: backend.facts.modelName };
    models.add(labels.model_name);
    vllmRunning.set(slots.running, labels);
    vllmWaiting.set(slots.waiting, labels);
    vllmKv.set(stats.kvUsage, labels);
  });
}

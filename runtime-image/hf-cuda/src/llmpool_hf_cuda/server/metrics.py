"""An instance's series; docs/instance-protocol.md lists them."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..errors import ERRORS
from .slots import Slots
from .status import InstanceStatus

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)


class InstanceMetrics:
    def __init__(self, status: InstanceStatus, slots: Slots) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Now(status, slots))
        self.requests = Counter(
            "llmpool_instance_requests_total",
            "Inference requests by how they ended: ok, aborted (the client left), or an error's code.",
            ["code"],
            registry=registry,
        )
        for code in ("ok", "aborted", *ERRORS):
            self.requests.labels(code)
        self.prompt_tokens = Counter("llmpool_instance_prompt_tokens_total", "Prompt tokens, cached ones included.", registry=registry)
        self.cached_tokens = Counter(
            "llmpool_instance_cached_tokens_total", "Prompt tokens found in a session's KV cache.", registry=registry
        )
        self.completion_tokens = Counter("llmpool_instance_completion_tokens_total", "Generated tokens.", registry=registry)
        self.first_token = Histogram(
            "llmpool_instance_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.token_gap = Histogram(
            "llmpool_instance_inter_token_seconds",
            "Between two outputs of one request, per token.",
            buckets=TOKEN_GAP_BUCKETS,
            registry=registry,
        )
        self.warmup = Gauge("llmpool_instance_warmup_seconds", "How long the warm-up inference took.", registry=registry)


class _Now(Collector):
    """Gauges that are read when somebody asks. The `vllm:` names are those that gateways and dashboards look for on a model server."""

    def __init__(self, status: InstanceStatus, slots: Slots) -> None:
        self._status = status
        self._slots = slots

    def collect(self) -> Iterable[Metric]:
        running, waiting = self._slots.running, self._slots.waiting
        backend = self._status.backend
        sessions, usage = backend.stats() if backend else (0, 0.0)
        ready = self._status.state == "Ready"
        yield GaugeMetricFamily("llmpool_instance_ready", "1 while the instance takes work.", float(ready))
        yield GaugeMetricFamily("llmpool_instance_requests_running", "Requests that compute.", running)
        yield GaugeMetricFamily("llmpool_instance_requests_waiting", "Requests that wait for a slot or their session.", waiting)
        yield GaugeMetricFamily("llmpool_instance_sessions", "KV caches in memory.", sessions)
        yield GaugeMetricFamily("llmpool_instance_kv_usage_ratio", "Used share of all KV cells.", usage)
        same = {
            "vllm:num_requests_running": ("llmpool_instance_requests_running", running),
            "vllm:num_requests_waiting": ("llmpool_instance_requests_waiting", waiting),
            "vllm:kv_cache_usage_perc": ("llmpool_instance_kv_usage_ratio", usage),
        }
        for name, (ours, value) in same.items():
            family = GaugeMetricFamily(name, f"Same as {ours}.", labels=["model_name"])
            if backend is not None:
                family.add_metric([backend.model_name], value)
            yield family

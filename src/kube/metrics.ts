import { type Metrics, SECONDS_BUCKETS } from "../lib/metrics.ts";

/** Why a list or watch ended before its time. `silent`: a second watch spoke before it did. */
export type WatchFailure = "short" | "gone" | "malformed" | "silent" | "refused" | "connection" | "other";
export type ReconcileResult = "success" | "error" | "requeue_after";

/** How far a work queue is, read when metrics are. */
export interface QueueState {
  readonly depth: number;
  /** Instants at which the work that is going on began. */
  readonly workingSince: Iterable<number>;
}

/** What the parts of this folder count. Names are those of client-go and controller-runtime, so that their dashboards work. */
export interface KubeMetrics {
  request(method: string, code: string): void;
  listed(resource: string): void;
  watched(resource: string): void;
  watchFailed(resource: string, cause: WatchFailure): void;
  /** `read` gives the number of objects and whether the first list is through. */
  informer(resource: string, read: () => { objects: number; synced: boolean }): void;
  queue(name: string, now: () => number, read: QueueState): QueueMetrics;
  controller(name: string, workers: number): ControllerMetrics;
  leader(lease: string, leads: boolean): void;
  events(outcome: "sent" | "capped" | "failed"): void;
}

export interface QueueMetrics {
  added(): void;
  retried(): void;
  /** Seconds from add to start. */
  waited(seconds: number): void;
  /** Seconds from start to done. */
  worked(seconds: number): void;
}

export interface ControllerMetrics {
  reconciled(result: ReconcileResult, seconds: number): void;
  /** A reconcile was aborted at its deadline. */
  timedOut(): void;
  active(workers: number): void;
  /** A reconcile was put off until the cache holds the controller's own last write. */
  deferred(): void;
}

const CAUSES = new Set<WatchFailure>(["short", "gone", "malformed", "silent", "refused", "connection", "other"]);
const METHODS = new Set(["GET", "POST", "PUT", "PATCH", "DELETE"]);

/** Registers them; once for each registry. */
export function makeKubeMetrics(metrics: Metrics): KubeMetrics {
  const names = new Set<string>();
  const controllers = new Set<string>();
  const resources = new Set<string>();
  const codes = new Set<string>(["<error>"]);
  const byQueue = { name: names };
  const byController = { controller: controllers };
  const byResource = { resource: resources };
  const outcomes = new Set(["sent", "capped", "failed"]);

  const requests = metrics.counter("rest_client_requests_total", "Calls to the API server.", {
    method: METHODS,
    code: codes,
  });
  const lists = metrics.counter("reflector_lists_total", "Lists read to the end.", byResource);
  const watches = metrics.counter("reflector_watches_total", "Watches opened.", byResource);
  const failures = metrics.counter("reflector_failures_total", "Lists and watches that ended before their time.", {
    resource: resources,
    cause: CAUSES,
  });
  const objects = metrics.gauge("informer_objects", "Objects in the cache.", byResource);
  const synced = metrics.gauge("informer_synced", "1 once the first list is in the cache.", byResource);
  const depth = metrics.gauge("workqueue_depth", "Keys that wait.", byQueue);
  const adds = metrics.counter("workqueue_adds_total", "Keys added.", byQueue);
  const retries = metrics.counter("workqueue_retries_total", "Keys added again after a failure.", byQueue);
  const waited = metrics.histogram("workqueue_queue_duration_seconds", "From add to start.", SECONDS_BUCKETS, byQueue);
  const worked = metrics.histogram("workqueue_work_duration_seconds", "From start to done.", SECONDS_BUCKETS, byQueue);
  const unfinished = metrics.gauge("workqueue_unfinished_work_seconds", "Age of all work going on, summed.", byQueue);
  const longest = metrics.gauge("workqueue_longest_running_processor_seconds", "Age of the oldest work.", byQueue);
  const reconciles = metrics.counter("controller_runtime_reconcile_total", "Reconciles, by how they ended.", {
    controller: controllers,
    result: new Set<ReconcileResult>(["success", "error", "requeue_after"]),
  });
  const errors = metrics.counter("controller_runtime_reconcile_errors_total", "Reconciles that failed.", byController);
  const timeouts = metrics.counter(
    "controller_runtime_reconcile_timeouts_total",
    "Reconciles aborted at their deadline.",
    byController,
  );
  const deferred = metrics.counter(
    "controller_runtime_reconcile_deferred_total",
    "Reconciles put off until the cache holds the controller's own last write.",
    byController,
  );
  const took = metrics.histogram(
    "controller_runtime_reconcile_time_seconds",
    "How long reconciles took.",
    SECONDS_BUCKETS,
    byController,
  );
  const active = metrics.gauge("controller_runtime_active_workers", "Workers at work.", byController);
  const most = metrics.gauge("controller_runtime_max_concurrent_reconciles", "Workers.", byController);
  const master = metrics.gauge("leader_election_master_status", "1 while this process leads.", byQueue);
  const events = metrics.counter("event_recorder_events_total", "Events, by what became of them.", {
    outcome: outcomes,
  });

  // One for each resource: an informer that was closed may have a successor.
  const informers = new Map<string, () => { objects: number; synced: boolean }>();
  metrics.onCollect(() => {
    for (const [resource, read] of informers) {
      const now = read();
      objects.set(now.objects, { resource });
      synced.set(now.synced ? 1 : 0, { resource });
    }
  });

  return {
    request(method, code) {
      codes.add(code);
      requests.inc(1, { method, code });
    },
    listed: (resource) => lists.inc(1, { resource }),
    watched: (resource) => watches.inc(1, { resource }),
    watchFailed: (resource, cause) => failures.inc(1, { resource, cause }),
    informer(resource, read) {
      resources.add(resource);
      informers.set(resource, read);
    },
    queue(name, now, state) {
      names.add(name);
      metrics.onCollect(() => {
        const ages = [...state.workingSince].map((since) => (now() - since) / 1000);
        depth.set(state.depth, { name });
        unfinished.set(
          ages.reduce((sum, age) => sum + age, 0),
          { name },
        );
        longest.set(Math.max(0, ...ages), { name });
      });
      return {
        added: () => adds.inc(1, { name }),
        retried: () => retries.inc(1, { name }),
        waited: (seconds) => waited.observe(seconds, { name }),
        worked: (seconds) => worked.observe(seconds, { name }),
      };
    },
    controller(controller, workers) {
      controllers.add(controller);
      most.set(workers, { controller });
      return {
        reconciled(result, seconds) {
          reconciles.inc(1, { controller, result });
          if (result === "error") errors.inc(1, { controller });
          took.observe(seconds, { controller });
        },
        timedOut: () => timeouts.inc(1, { controller }),
        active: (count) => active.set(count, { controller }),
        deferred: () => deferred.inc(1, { controller }),
      };
    },
    leader(lease, leads) {
      names.add(lease);
      master.set(leads ? 1 : 0, { name: lease });
    },
    events: (outcome) => events.inc(1, { outcome }),
  };
}

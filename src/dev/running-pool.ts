import type { InstanceObject } from "../api/http.ts";
import type { Endpoint } from "../core/endpoint.ts";
import type { Clock } from "../lib/clock.ts";
import type { Router } from "../router/server.ts";
import type { Supervisor } from "../supervisor/supervisor.ts";
import type { Definition } from "./definition.ts";
import { type LocalPlaces, localSpecs } from "./local-specs.ts";
import type { InstanceRow } from "./status-table.ts";
import type { View } from "./view.ts";

/** How often the numbers of the table are looked up. */
const REFRESH_MS = 500;

interface RunningPoolParts {
  definition: Definition;
  supervisor: Supervisor;
  router: Router;
  places: LocalPlaces;
  view: View;
  clock: Clock;
}

/** A pool that runs, what it was made from, and its picture. */
export class RunningPool {
  readonly #parts: RunningPoolParts;
  readonly #stopListening: () => void;
  #definition: Definition;
  #onReady: (() => void) | undefined;
  #cancel: () => void = () => {};

  constructor(parts: RunningPoolParts) {
    this.#parts = parts;
    this.#definition = parts.definition;
    this.#stopListening = parts.supervisor.onChange(() => this.#show());
    this.#refresh();
  }

  get definition(): Definition {
    return this.#definition;
  }
  get drainSeconds(): number {
    return this.#definition.plan.router.drainSeconds;
  }

  /** Calls `listener` once, when every instance is Ready for the first time. */
  whenReady(listener: () => void): void {
    this.#onReady = listener;
  }

  /** Makes the pool what `next` says, without touching what is the same. `changes` are told when nothing can refuse them any more. */
  become(next: Definition, changes: readonly string[]): void {
    const { router, supervisor, places, view } = this.#parts;
    router.update(next.plan, next.secrets);
    for (const change of changes) view.line(`edit: ${change}`);
    supervisor.apply(localSpecs(next.plan, places));
    this.#definition = next;
  }

  close(): void {
    this.#cancel();
    this.#stopListening();
  }

  #refresh(): void {
    this.#show();
    this.#cancel = this.#parts.clock.after(REFRESH_MS, () => this.#refresh());
  }

  #show(): void {
    const { supervisor, router, view } = this.#parts;
    const known = new Map(router.instances().map((instance) => [instance.id, instance]));
    const rows = supervisor.list().map((endpoint) => rowOf(endpoint, known.get(endpoint.id)));
    const ready = rows.filter((row) => row.state === "Ready").length;
    view.show(`pool ${this.#definition.plan.pool}  ${router.url}  ${ready} of ${rows.length} ready`, rows);
    if (rows.length === 0 || ready < rows.length) return;
    this.#onReady?.();
    this.#onReady = undefined;
  }
}

/** The supervisor knows the process, the router its load; of one that only drains the router knows nothing any more. */
function rowOf(endpoint: Endpoint, known: InstanceObject | undefined): InstanceRow {
  const { id, variant, state, restarts, pid, progress } = endpoint;
  return {
    object: "instance",
    id,
    variant,
    state,
    restarts,
    roles: known?.roles ?? [],
    queued: known?.queued ?? 0,
    running: known?.running ?? 0,
    sessions: known?.sessions ?? 0,
    tokens_per_second: known?.tokens_per_second ?? endpoint.tokensPerSecond ?? null,
    device: endpoint.device ?? null,
    message: endpoint.message ?? null,
    ...(pid !== undefined && { pid }),
    ...(progress !== undefined && { progress }),
  };
}

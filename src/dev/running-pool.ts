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

  /** Makes the pool what `next` says, without touching what is the same. */
  become(next: Definition): void {
    const { router, supervisor, places } = this.#parts;
    router.update(next.plan, next.secrets);
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
    const endpoints = new Map(supervisor.list().map((one) => [one.id, one]));
    const rows: InstanceRow[] = router.instances().map((instance) => {
      const progress = endpoints.get(instance.id)?.progress;
      endpoints.delete(instance.id);
      return progress === undefined ? instance : { ...instance, progress };
    });
    // What the router has no use for any more still drains.
    rows.push(...[...endpoints.values()].map(leavingRow));
    const ready = rows.filter((row) => row.state === "Ready").length;
    view.show(`pool ${this.#definition.plan.pool}  ${router.url}  ${ready} of ${rows.length} ready`, rows);
    if (rows.length === 0 || ready < rows.length) return;
    this.#onReady?.();
    this.#onReady = undefined;
  }
}

function leavingRow({ id, variant, state, restarts, device, message, pid }: Endpoint): InstanceRow {
  const counts = { queued: 0, running: 0, sessions: 0, tokens_per_second: null, restarts };
  const texts = { device: device ?? null, message: message ?? null };
  return { object: "instance", id, variant, state, roles: [], ...counts, ...texts, ...(pid !== undefined && { pid }) };
}

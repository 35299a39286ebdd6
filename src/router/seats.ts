import type { Usage } from "../api/backend.ts";
import type { InstanceObject } from "../api/http.ts";
import { type Attempt, Breakers } from "../core/breaker.ts";
import type { Endpoint, EndpointSource } from "../core/endpoint.ts";
import type { InstancePlan, PoolPlan } from "../core/plan/types.ts";
import {
  type DeadlineCode,
  InstanceQueue,
  type QueueItem,
  type QueueLimits,
  type Slot,
  type Ticket,
} from "../core/queue.ts";
import { Speed } from "../core/speed.ts";
import type { Placement, StateStore } from "../core/store.ts";
import type { Clock } from "../lib/clock.ts";
import { LLMPoolError } from "../lib/errors.ts";
import type { Identity } from "./identify.ts";
import { candidates, instanceObject, leastLoaded, type Place } from "./place.ts";
import { noteStart, readyInMs } from "./start-times.ts";

/** How long an endpoint that refused a connection is left alone, in milliseconds; its supervisor knows better by then. */
export const SUSPECT_MS = 1_000;
/** A guess beyond this is no help to a caller. */
const MOST_RETRY_AFTER_S = 300;
/** How often the number of sessions per instance is read again, in milliseconds. It only breaks ties. */
const COUNT_SESSIONS_MS = 5_000;

/** What an admitted request needs of an instance. */
export interface Ask {
  /** The instance that `choose` named. */
  instance: string;
  /** The caller named the instance: it never moves. */
  pinned: boolean;
  sessionKey: string | undefined;
  /** From `flowOf`. */
  flow: string;
  /** Asked again for each line it joins: an episode may be extended meanwhile. On the clock's scale, in milliseconds. */
  limit: () => { deadline: number; code: DeadlineCode };
  /** So far, in other lines; in milliseconds. */
  waitedMs: number;
  /** Ends the wait with its reason; asked for when there is one. */
  signal: () => AbortSignal;
  /** Told when it has to wait: its place in the line. */
  onWait: (ticket: Ticket) => void;
}

/** The right to send a request to a ready instance, where it stands in the line of all routers. */
export interface Seat {
  endpoint: Endpoint;
  /** In all lines together, in milliseconds. */
  waitedMs: number;
  /** Tells the breaker how it went. */
  attempt: Attempt;
  /** Whether it waits at the instance. */
  waits: boolean;
  /** It is there no more; with what the answer told about the instance's speed. Idempotent. */
  release(measured?: { usage: Usage; firstTokenMs: number; totalMs: number }): void;
}

/** Ends a wait for an instance that stays down: look elsewhere. */
const MOVE = Symbol("move");

export interface SeatsDeps {
  plan: () => PoolPlan;
  source: EndpointSource;
  store: Pick<StateStore, "sessionCounts">;
  clock: Clock;
}

/**
 * Which instance serves a request: placement, and what happens while an instance is down. Who of those at an instance runs is decided
 * there, for all routers alike; what waits here lacks its instance, or the end of its session's turn before.
 */
export class Seats {
  readonly #deps: SeatsDeps;
  readonly #places = new Map<string, Place>();
  /** Instances that each flow has run on since its episode began. */
  readonly #visited = new Map<string, Set<string>>();
  readonly #breakers: Breakers;
  readonly #unsubscribe: () => void;
  #cancelCount: () => void = () => {};

  constructor(deps: SeatsDeps) {
    this.#deps = deps;
    this.#breakers = new Breakers(deps.clock, () => this.#observe());
    this.follow();
    this.#unsubscribe = deps.source.onChange(() => this.#observe());
    this.#countSessions();
  }

  /** Takes over a changed plan: what is gone sends its waiting requests elsewhere. */
  follow(): void {
    const plan = this.#deps.plan();
    const limits = { slots: Number.POSITIVE_INFINITY, waiting: plan.router.queuePerInstance };
    const wanted = new Set<string>();
    for (const variant of plan.variants) {
      for (const instance of variant.instances) {
        wanted.add(instance.id);
        let place = this.#places.get(instance.id);
        if (!place) {
          place = this.#newPlace(instance, limits);
          this.#places.set(instance.id, place);
        }
        place.plan = instance;
        place.modelName = variant.modelName;
        place.roles = plan.roles.filter((r) => r.instances.includes(instance.id)).map((r) => r.name);
        place.queue.resize(limits);
      }
    }
    for (const [id, place] of this.#places) {
      if (wanted.has(id)) continue;
      this.#places.delete(id);
      place.cancelMove?.();
      place.queue.evictAll(MOVE);
    }
    this.#observe();
  }

  /** The instance that a request belongs on: the session's own, else the least loaded of those that its role, agent or model may use. */
  choose(identity: Identity, bound: string | undefined): InstancePlan {
    const home = bound === undefined ? undefined : this.#places.get(bound);
    if (home) return home.plan;
    const able = candidates([...this.#places.values()], identity);
    const ready = able.filter(this.#isReady);
    const from = ready.length > 0 ? ready : able;
    const best = leastLoaded(from, identity.hint);
    if (!best) {
      throw new LLMPoolError("instance_unavailable", "this variant of the pool has no instances; scale it up");
    }
    return best.plan;
  }

  /** A ready instance of the same variant on which the request may run as well; `instance` where there is none. */
  instead(instance: InstancePlan, identity: Identity): InstancePlan {
    const able = candidates([...this.#places.values()], identity).filter(this.#isReady);
    const alike = able.filter(({ plan }) => plan.variant === instance.variant);
    return leastLoaded(alike, identity.hint)?.plan ?? instance;
  }

  /** Where a request runs that is sent to the instance now. */
  placement(instance: string): Placement {
    const endpoint = this.#places.get(instance)?.endpoint;
    // Before its first answer nobody knows which process it is.
    if (!endpoint || endpoint.state === "Pending") return { instance };
    return { instance, boot: endpoint.uid };
  }

  /** A new session was bound: until the next count from the store. */
  bound(instance: string): void {
    const place = this.#places.get(instance);
    if (place) place.sessions++;
  }

  /**
   * A seat, at once where one is free. Else waits for a slot: rejects with the signal's reason, with what the waiting line says
   * (`queue_full`, a deadline), or with `instance_unavailable` when the instance stays down and no other may or can take over. What the
   * line says at once it throws.
   */
  take(ask: Ask): Seat | Promise<Seat> {
    const place = this.#places.get(ask.instance);
    if (!place || place.downSince !== undefined) return this.#takeLater(ask);
    const ticket = this.#join(place, ask);
    if (!ticket.atOnce) return this.#takeLater(ask, ticket);
    return this.#seat(place, ticket.atOnce, ask, 0) ?? this.#takeLater(ask);
  }

  /** `joined`: a place in the line of the instance that it asks for. */
  async #takeLater(ask: Ask, joined?: Ticket): Promise<Seat> {
    const { clock } = this.#deps;
    const began = clock.now();
    let id = ask.instance;
    let ticket = joined;
    for (;;) {
      const place = this.#places.get(id);
      // Whoever comes from another line is as old as before.
      const waitedMs = ask.waitedMs + clock.now() - began;
      const slot = place ? await this.#wait(place, { ...ask, waitedMs }, ticket) : MOVE;
      ticket = undefined;
      if (place && slot !== MOVE) {
        const seat = this.#seat(place, slot, ask, clock.now() - began);
        if (seat) return seat;
        continue;
      }
      id = this.#elsewhere(id, place, ask).plan.id;
    }
  }

  /** A connection to it failed: nothing more goes there until it is replaced, or a moment has passed. */
  suspect({ id, uid }: Endpoint): void {
    const place = this.#places.get(id);
    if (!place || place.endpoint?.uid !== uid) return;
    place.suspect = uid;
    place.suspectUntil = this.#deps.clock.now() + SUSPECT_MS;
    this.#observePlace(place);
    this.#deps.clock.after(SUSPECT_MS, () => {
      if (place.suspect !== uid) return;
      place.suspect = undefined;
      this.#observePlace(place);
    });
  }

  /** An episode runs there, or has a session: also by another router's word, or by that of one before. */
  visit(flow: string, instance: string): void {
    const known = this.#visited.get(flow);
    if (known) known.add(instance);
    else this.#visited.set(flow, new Set([instance]));
  }

  /** Where an episode has run. */
  visited(flow: string): string[] {
    return [...(this.#visited.get(flow) ?? [])];
  }

  forget(flow: string): void {
    this.#visited.delete(flow);
  }

  instances(): InstanceObject[] {
    return [...this.#places.values()].map(instanceObject);
  }

  /** Share of the places for warm sessions that is taken, 0 to 1. */
  cacheUsage(): number {
    let places = 0;
    let taken = 0;
    for (const { plan, sessions } of this.#places.values()) {
      places += plan.sessions;
      taken += Math.min(sessions, plan.sessions);
    }
    return places === 0 ? 0 : taken / places;
  }

  /** Why not every instance has been ready yet; undefined once each is. */
  notReady(): string | undefined {
    const waiting = [...this.#places.values()].filter((p) => !this.#isReady(p));
    if (waiting.length === 0) return undefined;
    return `waiting for instances ${waiting.map((p) => `${p.plan.id} (${p.endpoint?.state ?? "Pending"})`).join(", ")}`;
  }

  close(): void {
    this.#unsubscribe();
    this.#cancelCount();
    this.#breakers.close();
    for (const place of this.#places.values()) {
      place.cancelMove?.();
      place.queue.close();
    }
  }

  #isReady = ({ endpoint, suspect }: Place): boolean =>
    endpoint?.state === "Ready" && endpoint.uid !== suspect && this.#breakers.allows(endpoint.uid);

  #newPlace(plan: InstancePlan, limits: QueueLimits): Place {
    const { clock } = this.#deps;
    const speed = new Speed();
    const queue = new InstanceQueue(plan.id, { clock, speed }, limits);
    queue.pause();
    return {
      plan,
      modelName: "",
      roles: [],
      queue,
      waitingThere: 0,
      speed,
      sessions: 0,
      endpoint: undefined,
      suspect: undefined,
      suspectUntil: 0,
      startsSince: undefined,
      startMs: undefined,
      downSince: clock.now(),
      cancelMove: undefined,
    };
  }

  /** A slot, or MOVE when the instance has been down for too long. */
  async #wait(place: Place, ask: Ask, joined: Ticket | undefined): Promise<Slot | typeof MOVE> {
    if (!joined && place.downSince !== undefined && this.#movesIn(place) <= 0) return MOVE;
    try {
      return await (joined ?? this.#join(place, ask)).slot;
    } catch (reason) {
      if (reason === MOVE) return MOVE;
      throw reason;
    }
  }

  #join(place: Place, ask: Ask): Ticket {
    const { flow, waitedMs, signal, sessionKey } = ask;
    const { deadline, code: deadlineCode } = ask.limit();
    const item: QueueItem = { flow, deadline, deadlineCode, prefillTokens: 0, waitedMs, signal };
    if (sessionKey !== undefined) item.session = sessionKey;
    const ticket = place.queue.enqueue(item);
    if (ticket.position() > 0) ask.onWait(ticket);
    return ticket;
  }

  #seat(place: Place, slot: Slot, { flow }: Ask, waitedMs: number): Seat | undefined {
    const { endpoint } = place;
    // It went down between the grant and this line, or its breaker lets one probe through and this is the second request.
    if (!endpoint || !this.#isReady(place)) {
      this.#observePlace(place);
      slot.release();
      return undefined;
    }
    const { id } = place.plan;
    this.visit(flow, id);
    return new TakenSeat(place, slot, endpoint, waitedMs, this.#breakers.begin(endpoint.uid));
  }

  #elsewhere(id: string, place: Place | undefined, ask: Ask): Place {
    // An instance that left the plan: its id still says which variant it was of.
    const name = place?.plan.variant ?? (/^\d+$/.test(id) ? "default" : id.slice(0, id.lastIndexOf("-")));
    const others = [...this.#places.values()].filter((p) => p.plan.variant === name && p !== place);
    const best = ask.pinned ? undefined : leastLoaded(others.filter(this.#isReady), undefined);
    if (best) return best;
    const state = place?.endpoint?.message ?? place?.endpoint?.state ?? "gone";
    const none = ask.pinned ? "" : `, and no other instance of variant ${name} is ready`;
    const able = [...(place ? [place] : []), ...(ask.pinned ? [] : others)];
    const retryAfterSeconds = this.#readyInSeconds(able);
    throw new LLMPoolError("instance_unavailable", `instance ${id} is not ready (${state})${none}`, {
      ...(retryAfterSeconds !== undefined && { retryAfterSeconds }),
    });
  }

  /** When the first of them takes requests again; undefined where nothing says so. */
  #readyInSeconds(places: readonly Place[]): number | undefined {
    const now = this.#deps.clock.now();
    const known = places.flatMap((place) => {
      const ms = readyInMs(place, this.#breakers.probeInMs(place.endpoint?.uid ?? ""), now);
      return ms === undefined ? [] : [ms];
    });
    return known.length === 0 ? undefined : Math.min(MOST_RETRY_AFTER_S, Math.max(1, Math.min(...known) / 1000));
  }

  #observe(): void {
    const list = this.#deps.source.list();
    this.#breakers.follow(list);
    const endpoints = new Map(list.map((e) => [e.id, e]));
    for (const place of this.#places.values()) {
      place.endpoint = endpoints.get(place.plan.id);
      noteStart(place, this.#deps.clock.now());
      this.#observePlace(place);
    }
  }

  #observePlace(place: Place): void {
    if (this.#isReady(place)) {
      place.downSince = undefined;
      place.cancelMove?.();
      place.cancelMove = undefined;
      place.queue.resume();
      return;
    }
    const { clock } = this.#deps;
    place.downSince ??= clock.now();
    place.queue.pause(clock.now() + this.#movesIn(place));
    if (place.cancelMove) return;
    place.cancelMove = clock.after(this.#movesIn(place), () => place.queue.evictAll(MOVE));
  }

  /** Milliseconds until those who wait for it move. */
  #movesIn(place: Place): number {
    const { clock, plan } = this.#deps;
    return (place.downSince ?? clock.now()) + plan().router.rebindAfterSeconds * 1000 - clock.now();
  }

  #countSessions(): void {
    const { store, clock } = this.#deps;
    void store
      .sessionCounts()
      .then((counts) => {
        for (const [id, place] of this.#places) place.sessions = counts.get(id) ?? 0;
      })
      .catch(() => {})
      .finally(() => {
        this.#cancelCount = clock.after(COUNT_SESSIONS_MS, () => this.#countSessions());
      });
  }
}

class TakenSeat implements Seat {
  readonly endpoint: Endpoint;
  readonly waitedMs: number;
  readonly attempt: Attempt;
  readonly #place: Place;
  readonly #slot: Slot;
  #waits = false;

  constructor(place: Place, slot: Slot, endpoint: Endpoint, waitedMs: number, attempt: Attempt) {
    this.#place = place;
    this.#slot = slot;
    this.endpoint = endpoint;
    this.waitedMs = waitedMs;
    this.attempt = attempt;
  }

  get waits(): boolean {
    return this.#waits;
  }
  set waits(waits: boolean) {
    if (waits === this.#waits) return;
    this.#waits = waits;
    this.#place.waitingThere += waits ? 1 : -1;
  }

  release(measured?: Parameters<Seat["release"]>[0]): void {
    this.waits = false;
    this.#slot.release();
    if (measured) this.#place.speed.observe({ ...measured.usage, ...measured });
  }
}

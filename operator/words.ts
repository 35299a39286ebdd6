import type { Client } from "../src/kube/client.ts";
import { ApiError } from "../src/kube/errors.ts";
import type { KubeObject, List } from "../src/kube/object.ts";
import type { Clock } from "../src/lib/clock.ts";
import type { Pod } from "./kinds.ts";

/** An object that stays behind what is wanted of it, and says nothing itself. */
export interface Subject {
  kind: string;
  name: string;
  /** Of the one that bears the name now, where that is known: Events of an earlier one live on for an hour. */
  uid?: string;
  /** A pod that has its node. */
  placed?: boolean;
}

/** The same, each with what is known of the object that bears the name now. */
export function identified(
  subjects: readonly Subject[],
  find: (subject: Subject) => KubeObject | undefined,
): Subject[] {
  return subjects.map((subject) => {
    const found = find(subject);
    const { uid } = found?.metadata ?? {};
    const placed = subject.kind === "Pod" && (found as Pod | undefined)?.spec?.nodeName !== undefined;
    return { ...subject, ...(uid !== undefined && { uid }), placed };
  });
}

/** By `Kind/name`: what Kubernetes' own parts have said of an object. */
export type Words = ReadonlyMap<string, string>;

export const subjectName = ({ kind, name }: Subject): string => `${kind}/${name}`;

/** What only starts needs no words: nothing is asked of an object before it has stayed behind for this long, in milliseconds. */
const PATIENCE_MS = 3_000;
/** How often the same is asked again, in milliseconds. */
const ASK_EVERY_MS = 5_000;
/** Objects of one pool that are asked for: one cause has many victims. */
const MOST = 4;

interface Event extends KubeObject {
  type?: string;
  reason?: string;
  message?: string;
  lastTimestamp?: string;
  eventTime?: string;
  series?: { lastObservedTime?: string };
}

interface Asked {
  name: string;
  since: number;
  at: number;
  words: string | undefined;
}

/**
 * A quota that forbids a pod, a volume that cannot be made, a Secret that cannot be mounted: of these only Events tell. They are read for objects that
 * stay behind, and for no others.
 */
export class EventWords {
  readonly #client: Pick<Client, "request">;
  readonly #clock: Clock;
  readonly #pools = new Map<string, Map<string, Asked>>();

  constructor(client: Pick<Client, "request">, clock: Clock) {
    this.#client = client;
    this.#clock = clock;
  }

  /** What is known of these objects of a pool, and how soon to look again, in milliseconds. What is not named any more is forgotten. */
  async about(
    key: string,
    namespace: string,
    subjects: readonly Subject[],
    signal: AbortSignal,
  ): Promise<{ words: Words; againMs: number | undefined }> {
    const known = this.#pools.get(key);
    const now = this.#clock.now();
    const asked = new Map<string, Asked>();
    for (const subject of subjects.slice(0, MOST)) {
      const name = subjectName(subject);
      const one = `${name} ${subject.uid ?? ""}`;
      const before = known?.get(one) ?? { name, since: now, at: Number.NEGATIVE_INFINITY, words: undefined };
      const due = now - before.since >= PATIENCE_MS && now - before.at >= ASK_EVERY_MS;
      asked.set(one, due ? { ...before, at: now, words: await this.#read(namespace, subject, signal) } : before);
    }
    if (asked.size > 0) this.#pools.set(key, asked);
    else this.#pools.delete(key);
    const words = [...asked.values()].flatMap(({ name, words }) =>
      words === undefined ? [] : [[name, words] as const],
    );
    return { words: new Map(words), againMs: againMs([...asked.values()], now) };
  }

  forget(key: string): void {
    this.#pools.delete(key);
  }

  async #read(namespace: string, subject: Subject, signal: AbortSignal): Promise<string | undefined> {
    const { kind, name, uid } = subject;
    const one = uid === undefined ? "" : `,involvedObject.uid=${uid}`;
    const fieldSelector = `involvedObject.kind=${kind},involvedObject.name=${name}${one}`;
    try {
      const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/events`;
      const { items } = await this.#client.request<List<Event>>("GET", path, { query: { fieldSelector }, signal });
      return lastTrouble(items, subject)?.message;
    } catch (error) {
      // Not ours to read: the condition has fewer words.
      if (error instanceof ApiError && error.status === 403) return undefined;
      throw error;
    }
  }
}

/** When the first of them is due. */
function againMs(asked: readonly Asked[], now: number): number | undefined {
  if (asked.length === 0) return undefined;
  return Math.min(...asked.map(({ since, at }) => Math.max(since + PATIENCE_MS, at + ASK_EVERY_MS) - now));
}

/**
 * What a pod has got over is no trouble any more: whatever was before its last step, and the scheduler's refusals once it has a node. Of sets and claims
 * that cannot be said: beside the pod that a quota forbids another is made, and beside the volume that cannot be made one is waited for.
 */
function lastTrouble(events: readonly Event[], { kind, placed }: Subject): Event | undefined {
  const steps = kind === "Pod" ? events.filter(isStep).map(timeOf) : [];
  const since = Math.max(Number.NEGATIVE_INFINITY, ...steps);
  return events
    .filter((event) => isBad(event) && timeOf(event) > since && !(placed && event.reason === "FailedScheduling"))
    .toSorted(byTime)
    .at(-1);
}

/** A sandbox is changed because one could not be made. */
const isStep = ({ type, reason }: Event): boolean => type === "Normal" && reason !== "SandboxChanged";

/** That a claim finds no volume is an Event of type Normal. */
const isBad = ({ type, reason }: Event): boolean => type === "Warning" || reason === "FailedBinding";

const timeOf = ({ series, lastTimestamp, eventTime, metadata }: Event): number =>
  Date.parse(series?.lastObservedTime ?? lastTimestamp ?? eventTime ?? metadata.creationTimestamp ?? "") || 0;

const byTime = (a: Event, b: Event): number => timeOf(a) - timeOf(b);

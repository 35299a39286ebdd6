import type { Client } from "../src/kube/client.ts";
import { ApiError } from "../src/kube/errors.ts";
import type { KubeObject, List } from "../src/kube/object.ts";
import type { Clock } from "../src/lib/clock.ts";

/** An object that stays behind what is wanted of it, and says nothing itself. */
export interface Subject {
  kind: string;
  name: string;
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
}

interface Asked {
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
      const before = known?.get(name) ?? { since: now, at: Number.NEGATIVE_INFINITY, words: undefined };
      const due = now - before.since >= PATIENCE_MS && now - before.at >= ASK_EVERY_MS;
      asked.set(name, due ? { ...before, at: now, words: await this.#read(namespace, subject, signal) } : before);
    }
    if (asked.size > 0) this.#pools.set(key, asked);
    else this.#pools.delete(key);
    const words = [...asked].flatMap(([name, { words }]) => (words === undefined ? [] : [[name, words] as const]));
    return { words: new Map(words), againMs: againMs([...asked.values()], now) };
  }

  forget(key: string): void {
    this.#pools.delete(key);
  }

  async #read(namespace: string, { kind, name }: Subject, signal: AbortSignal): Promise<string | undefined> {
    const fieldSelector = `involvedObject.kind=${kind},involvedObject.name=${name}`;
    try {
      const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/events`;
      const { items } = await this.#client.request<List<Event>>("GET", path, { query: { fieldSelector }, signal });
      return items.filter(isBad).toSorted(byTime).at(-1)?.message;
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

/** That a claim finds no volume is an Event of type Normal. */
const isBad = ({ type, reason }: Event): boolean => type === "Warning" || reason === "FailedBinding";

const timeOf = ({ lastTimestamp, eventTime, metadata }: Event): number =>
  Date.parse(lastTimestamp ?? eventTime ?? metadata.creationTimestamp ?? "") || 0;

const byTime = (a: Event, b: Event): number => timeOf(a) - timeOf(b);

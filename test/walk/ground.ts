import type { Ask } from "../../operator/ask.ts";
import { LLMPOOLS } from "../../operator/kinds.ts";
import { API_VERSION, KIND, LABELS } from "../../src/api/names.ts";
import type { Client } from "../../src/kube/client.ts";
import { ApiError, isConflict, isNotFound } from "../../src/kube/errors.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { pathOf, RESOURCES, selectorOf } from "../../src/kube/resource.ts";
import { conditionOf } from "../support/conditions.ts";
import { differences, type EndState, endState } from "../support/end-state.ts";
import { eventually } from "../support/eventually.ts";
import type { Pool } from "../support/pools.ts";

const NAME = "apex";
/** No state takes so long; a limit against hanging. */
const HANG_MS = 120_000;
/** How long after both say that they are at rest: Kubernetes' own parts are to end what is left over. */
const ALIKE_MS = 30_000;

/** What every fake instance and supervisor says: all that may be asked for is Ready. */
export const ALL_READY: Ask = async (url) => {
  if (url.endsWith("/readyz")) return { state: "Ready", device: "FAKE", warmup_s: 1, tokens_per_second: 50 };
  const ids = ["", "code-", "x0-", "a-"].flatMap((variant) => Array.from({ length: 256 }, (_, i) => `${variant}${i}`));
  return { instances: ids.map((id) => ({ id, state: "Ready", restarts: 0 })) };
};

/**
 * What the API server says to a pool of this spec, as kubectl asks it: the pool with its defaults, or the refusal. Nothing is stored.
 */
export async function judge(client: Client, namespace: string, spec: unknown): Promise<Pool | ApiError> {
  const pool = { apiVersion: API_VERSION, kind: KIND, metadata: { name: NAME, namespace }, spec };
  try {
    const query = { dryRun: "All", fieldValidation: "Strict" };
    return await client.request<Pool>("POST", pathOf(LLMPOOLS, { namespace }), { query, body: pool });
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
}

/** How far two pools of one spec have to be alike. */
type Depth = "all" | "objects" | "no workloads";
/** That of the two which asks for less counts. */
const DEPTHS: readonly Depth[] = ["no workloads", "objects", "all"];

/** One pool that is edited again and again, beside pools that are made anew, all called `apex`, each in a namespace of its own. */
export class Ground {
  readonly #client: Client;
  readonly #walked: string;
  readonly #fresh: string[];
  readonly #known = new Map<string, EndState>();

  /** @param fresh namespaces that take turns, so that nobody waits for the end of the one before */
  constructor(client: Client, walked: string, fresh: string[]) {
    this.#client = client;
    this.#walked = walked;
    this.#fresh = fresh;
  }

  get namespaces(): string[] {
    return [this.#walked, ...this.#fresh];
  }

  /** Edits the pool to this spec, and returns what is not as it is of a fresh pool of the spec, once both are at rest. */
  async goTo(spec: unknown): Promise<string[]> {
    const text = JSON.stringify(spec);
    const known = this.#known.get(text);
    const [pool] = await Promise.all([this.#edit(spec), known ?? this.#makeFresh(spec)]);
    const namespace = this.#fresh[0] ?? "";
    let left: string[] = [];
    let last: EndState = {};
    try {
      await eventually(
        "both alike",
        async () => {
          const there = known ?? (await endState(this.#client, namespace, NAME));
          const here = await endState(this.#client, this.#walked, NAME);
          last = here;
          const depth = DEPTHS.find((one) => [here, there].map(depthOf).includes(one)) ?? "all";
          left = differences(seen(here, depth, there), seen(there, depth));
          if (left.length === 0 && depth === "all") this.#known.set(text, there);
          return left.length === 0;
        },
        ALIKE_MS,
      );
    } catch {
      return left;
    }
    const [said, is] = [readyOf(pool), readyOf(last[`${KIND}/${NAME}`] as Pool)];
    // Where it said no, it may have waited for somebody who came: the scheduler, which tries again.
    return said !== "True" || is === "True"
      ? []
      : [`its status came to rest with Ready ${said}, and then it was ${is}`];
  }

  /** Makes the pool, or makes it another, and waits until it is at rest. */
  async #edit(spec: unknown): Promise<Pool> {
    const place = { namespace: this.#walked, name: NAME };
    await eventually("the edit is taken", async () => {
      const stored = await this.#client.find<Pool & { spec: unknown }>(LLMPOOLS, place);
      try {
        if (stored) await this.#client.update({ ...stored, spec });
        else await this.#create(this.#walked, spec);
        return true;
      } catch (error) {
        // The operator wrote the status meanwhile.
        if (isConflict(error)) return false;
        throw error;
      }
    });
    return this.#atRest(this.#walked);
  }

  async #makeFresh(spec: unknown): Promise<Pool> {
    const last = this.#fresh.shift();
    if (last !== undefined) this.#fresh.push(last);
    const namespace = this.#fresh[0] ?? "";
    if (last !== undefined && last !== namespace) await this.#remove(last);
    await this.#gone(namespace);
    await this.#create(namespace, spec);
    return this.#atRest(namespace);
  }

  #create(namespace: string, spec: unknown): Promise<KubeObject> {
    return this.#client.create({
      apiVersion: API_VERSION,
      kind: KIND,
      metadata: { name: NAME, namespace },
      spec,
    } as Pool);
  }

  #remove(namespace: string): Promise<boolean> {
    return this.#client.delete(LLMPOOLS, { namespace, name: NAME }, { propagation: "Background" });
  }

  async #gone(namespace: string): Promise<void> {
    await this.#remove(namespace);
    await eventually(
      "the pool before is gone with all it had",
      async () => {
        const left = await endState(this.#client, namespace, NAME).catch((error: unknown) => {
          if (!isNotFound(error)) throw error;
        });
        if (left) return false;
        const labelSelector = selectorOf({ [LABELS.pool]: NAME });
        const kinds = [RESOURCES.pods, RESOURCES.secrets, RESOURCES.persistentVolumeClaims, RESOURCES.statefulSets];
        const lists = await Promise.all(kinds.map((kind) => this.#client.list(kind, { namespace, labelSelector })));
        return lists.every(({ items }) => items.length === 0);
      },
      HANG_MS,
    );
  }

  #atRest(namespace: string): Promise<Pool> {
    let last: Pool | undefined;
    return eventually(
      "at rest",
      async () => {
        last = await this.#client.get<Pool>(LLMPOOLS, { namespace, name: NAME });
        return isAtRest(last) && last;
      },
      HANG_MS,
    ).catch((error: unknown) => {
      throw new Error(`never at rest: ${JSON.stringify(last?.status?.conditions)}`, { cause: error });
    });
  }
}

/** By what its status says: done, or waiting for a person. */
function isAtRest(pool: Pool): boolean {
  if (pool.status?.observedGeneration !== pool.metadata.generation) return false;
  const is = (type: string) => conditionOf(pool, type)?.status;
  if (is("Ready") === "True") return is("Progressing") === "False" || is("Stalled") === "True";
  return is("Stalled") === "True" || conditionOf(pool, "Ready")?.reason === "ApplyFailed";
}

const readyOf = (pool: Pool) => conditionOf(pool, "Ready")?.status;

/**
 * What cannot be placed or made stops a rollout at its first pod, and the others keep the entries that they were made for; what Kubernetes refuses
 * stays what it was.
 */
function depthOf(state: EndState): Depth {
  const pool = state[`${KIND}/${NAME}`] as Pool;
  if (conditionOf(pool, "Ready")?.reason === "ApplyFailed") return "no workloads";
  return conditionOf(pool, "Ready")?.status === "True" ? "all" : "objects";
}

const WORKLOADS = /^(Pod|StatefulSet|Deployment|PersistentVolumeClaim|LLMPool|ConfigMap)[/]/;

/** Claims stay when an edit no longer asks for them. */
function seen(state: EndState, depth: Depth, other: EndState = state): EndState {
  return Object.fromEntries(
    Object.entries(state).filter(([name]) => {
      if (name.startsWith("PersistentVolumeClaim/") && !(name in other)) return false;
      if (depth === "all") return true;
      return depth === "objects" ? !/^(Pod|LLMPool|ConfigMap)[/]/.test(name) : !WORKLOADS.test(name);
    }),
  );
}

import type { Client } from "../src/kube/client.ts";
import type { KubeObject, OwnerReference } from "../src/kube/object.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import type { Clock } from "../src/lib/clock.ts";
import { attempt, isOwned, type Owner, type TokenOutcome, taken } from "./apply.ts";
import { namesOf, objectLabels } from "./render/names.ts";

/** How long a Secret that was there is believed to be so, in milliseconds: no event tells of its end, and each look is a call. */
const BELIEVED_MS = 30_000;

export interface TokensDeps {
  client: Client;
  makeToken: () => string;
  clock: Clock;
}

/** The Secrets with the pools' random tokens. */
export class Tokens {
  readonly #deps: TokensDeps;
  readonly #seen = new Map<string, { uid: string; at: number }>();

  constructor(deps: TokensDeps) {
    this.#deps = deps;
  }

  /**
   * Makes the Secret of a pool unless it is there. It is never written again: whoever runs has read it. `foreign`: one of this name is another's,
   * or an earlier pool's that is about to go, and no pod may start with it.
   */
  async ensure(owner: Owner, reference: OwnerReference, namespace: string, signal: AbortSignal): Promise<TokenOutcome> {
    const { clock } = this.#deps;
    const seen = this.#seen.get(owner.key);
    if (seen?.uid === owner.uid && clock.now() - seen.at < BELIEVED_MS) return { foreign: false };
    const pool = reference.name;
    const metadata = { name: namesOf(pool).token, namespace, labels: objectLabels(pool), ownerReferences: [reference] };
    // Not immutable: of such a Secret a kubelet keeps its copy for as long as a pod of its node has it, also when another has taken its name. Those of
    // former releases stay so, which nothing can undo but a deletion: their pods run with what is in them.
    const secret = { apiVersion: "v1", kind: "Secret", metadata, type: "Opaque" };
    let foreign = false;
    const problem = await attempt(secret, async () => {
      const other = await makeUnlessThere(secret, this.#deps, owner, signal);
      foreign = other !== undefined;
      return other && taken(other, owner);
    });
    if (!problem && !foreign) this.#seen.set(owner.key, { uid: owner.uid, at: clock.now() });
    return { foreign, ...(problem && { problem }) };
  }

  /** The pool is gone. */
  forget(key: string): void {
    this.#seen.delete(key);
  }
}

/** Resolves with what has the name and is not this pool's. */
async function makeUnlessThere(
  secret: KubeObject,
  { client, makeToken }: TokensDeps,
  owner: Owner,
  signal: AbortSignal,
): Promise<KubeObject | undefined> {
  const stored = await client.find<KubeObject>(RESOURCES.secrets, secret.metadata, signal);
  if (stored) return isOwned(stored, owner) ? undefined : stored;
  // A Conflict: made meanwhile, and the next look decides whose it is.
  await client.create({ ...secret, stringData: { token: makeToken() } }, { signal });
  return undefined;
}

import type { Client } from "../src/kube/client.ts";
import { isConflict } from "../src/kube/errors.ts";
import type { KubeObject, OwnerReference } from "../src/kube/object.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import type { Clock } from "../src/lib/clock.ts";
import { attempt, isOwned, type Owner, type Problem } from "./apply.ts";
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

  /** Makes the Secret of a pool unless it is there. It is never written again: whoever runs has read it. */
  async ensure(
    owner: Owner,
    reference: OwnerReference,
    namespace: string,
    signal: AbortSignal,
  ): Promise<Problem | undefined> {
    const { clock } = this.#deps;
    const seen = this.#seen.get(owner.key);
    if (seen?.uid === owner.uid && clock.now() - seen.at < BELIEVED_MS) return undefined;
    const pool = reference.name;
    const metadata = { name: namesOf(pool).token, namespace, labels: objectLabels(pool), ownerReferences: [reference] };
    const secret = { apiVersion: "v1", kind: "Secret", metadata, type: "Opaque", immutable: true };
    const problem = await attempt(secret, () => makeUnlessThere(secret, owner, this.#deps, signal));
    if (!problem) this.#seen.set(owner.key, { uid: owner.uid, at: clock.now() });
    return problem;
  }

  /** The pool is gone. */
  forget(key: string): void {
    this.#seen.delete(key);
  }
}

async function makeUnlessThere(
  secret: KubeObject,
  owner: Owner,
  { client, makeToken }: TokensDeps,
  signal: AbortSignal,
): Promise<Problem | undefined> {
  const { name } = secret.metadata;
  const stored = await client.find<KubeObject>(RESOURCES.secrets, secret.metadata, signal);
  if (stored) {
    if (isOwned(stored, owner)) return undefined;
    return {
      reason: "ObjectTaken",
      message: `Secret ${name} is there already and does not belong to this pool: rename or delete it, or give the pool another name`,
    };
  }
  try {
    await client.create({ ...secret, stringData: { token: makeToken() } }, { signal });
  } catch (error) {
    // Made meanwhile: the next look decides whose it is.
    if (!isConflict(error)) throw error;
  }
  return undefined;
}

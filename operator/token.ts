import type { Client } from "../src/kube/client.ts";
import { isConflict } from "../src/kube/errors.ts";
import type { KubeObject, OwnerReference } from "../src/kube/object.ts";
import { RESOURCES } from "../src/kube/resource.ts";
import { attempt, isOwned, type Owner, type Problem } from "./apply.ts";
import { namesOf, objectLabels } from "./render/names.ts";

/** Makes the Secret with the pool's random token unless it is there. It is never written again: whoever runs has read it. */
export async function ensureToken(
  owner: Owner,
  reference: OwnerReference,
  namespace: string,
  deps: { client: Client; makeToken: () => string },
  signal: AbortSignal,
): Promise<Problem | undefined> {
  const pool = reference.name;
  const name = namesOf(pool).token;
  const secret = {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name, namespace, labels: objectLabels(pool), ownerReferences: [reference] },
    type: "Opaque",
    immutable: true,
  };
  return attempt(secret, () => makeUnlessThere(secret, owner, deps, signal));
}

async function makeUnlessThere(
  secret: KubeObject,
  owner: Owner,
  { client, makeToken }: { client: Client; makeToken: () => string },
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

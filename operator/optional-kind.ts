import type { Client } from "../src/kube/client.ts";
import { withDeadline } from "../src/kube/deadline.ts";
import { isNotFound } from "../src/kube/errors.ts";
import type { Expectations } from "../src/kube/expectations.ts";
import type { Resource } from "../src/kube/resource.ts";
import type { Clock } from "../src/lib/clock.ts";
import { messageOf } from "../src/lib/errors.ts";
import type { Logger } from "../src/lib/logger.ts";
import { sleep } from "../src/lib/sleep.ts";
import type { Caches } from "./caches.ts";

/** How often to ask, in milliseconds: who may watch the kinds of a cluster may read much more than the operator should. */
const ASK_MS = 10_000;
/** How long a kind that is there may take to be listed, in milliseconds: it may be forbidden, or its conversion out of order. */
const LIST_MS = 30_000;

export interface OptionalKindDeps {
  client: Pick<Client, "request">;
  caches: Pick<Caches, "knows" | "follow" | "unfollow">;
  expectations: Pick<Expectations, "abandon">;
  clock: Clock;
  log: Logger;
}

/**
 * Lets the caches follow a kind while the cluster has it and lets it be listed, until the signal fires. Never rejects. `onAsked` is called when the
 * cluster has said whether it has the kind, or cannot: nobody waits for its objects.
 */
export async function followWhileThere(
  resource: Resource,
  { client, caches, expectations, clock, log }: OptionalKindDeps,
  signal: AbortSignal,
  onAsked: () => void,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const there = await isServed(client, resource, signal).finally(onAsked);
      if (there !== caches.knows(resource)) {
        log.info(there ? "the cluster has a kind that pools can use" : "the cluster lost a kind", {
          kind: resource.kind,
        });
        if (there) await withDeadline(clock, LIST_MS, late, signal, (inTime) => caches.follow(resource, inTime));
        else {
          const cache = await caches.unfollow(resource);
          if (cache) expectations.abandon(cache);
        }
      }
    } catch (error) {
      if (!signal.aborted)
        log.warn("cannot follow a kind that pools can use", { kind: resource.kind, error: messageOf(error) });
    }
    await sleep(clock, ASK_MS, signal).catch(() => {});
  }
}

const late = () => new Error(`it could not be listed within ${LIST_MS / 1000} s`);

async function isServed(client: OptionalKindDeps["client"], { apiVersion, plural }: Resource, signal: AbortSignal) {
  try {
    const path = `/apis/${apiVersion}`;
    const { resources = [] } = await client.request<{ resources?: { name: string }[] }>("GET", path, { signal });
    return resources.some(({ name }) => name === plural);
  } catch (error) {
    if (isNotFound(error)) return false;
    throw error;
  }
}

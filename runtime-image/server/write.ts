import type { ServerResponse } from "node:http";
import type { Clock } from "../../src/lib/clock.ts";

/** The client is gone, or takes nothing: there is nobody to tell. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}

/** Resolves when the client has taken what was written. One that takes nothing for `idleMs` is cut off and counts as gone. */
export function drained(response: ServerResponse, clock: Clock, idleMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const finish = (settle: () => void) => {
      cancel();
      response.off("drain", onDrain).off("close", onClose);
      signal.removeEventListener("abort", onAbort);
      settle();
    };
    const onDrain = () => finish(resolve);
    const onClose = () => finish(() => reject(new ClientGone("the client hung up")));
    const onAbort = () => finish(() => reject(signal.reason));
    const cancel = clock.after(idleMs, () => {
      finish(() => reject(new ClientGone(`the client took nothing for ${idleMs / 1000} s`)));
      response.destroy();
    });
    response.on("drain", onDrain).on("close", onClose);
    signal.addEventListener("abort", onAbort);
  });
}

/** Ends the connection of a client that does not take the end of its answer either. */
export function closeWhenIdle(response: ServerResponse, clock: Clock, idleMs: number): void {
  if (response.writableFinished || response.destroyed) return;
  const cancel = clock.after(idleMs, () => response.destroy());
  response.once("close", cancel);
}

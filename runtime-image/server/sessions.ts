import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "../../src/lib/clock.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import { sendError, sendJson } from "./answer.ts";
import type { ServerLimits } from "./limits.ts";
import type { Slots } from "./slots.ts";
import type { InstanceStatus } from "./status.ts";
import { ClientGone, drained } from "./write.ts";

export interface SessionDeps {
  status: InstanceStatus;
  slots: Slots;
  limits: ServerLimits;
  clock: Clock;
}

/** Frees, reads or replaces one session's cache. All wait for the session's running turn to end. */
export class SessionCalls {
  readonly #deps: SessionDeps;

  constructor(deps: SessionDeps) {
    this.#deps = deps;
  }

  /** Goes on when the caller leaves: what was asked to be freed is freed. */
  async delete(session: string, response: ServerResponse): Promise<void> {
    const backend = this.#deps.status.forSessions();
    using _turn = await this.#deps.slots.session(session, new AbortController().signal);
    if (!(await backend.deleteSession(session))) throw unknownSession();
    sendJson(response, 200, { deleted: true });
  }

  async export(session: string, response: ServerResponse): Promise<void> {
    const { clock, limits, slots, status } = this.#deps;
    const backend = status.forSessions();
    const gone = new AbortController();
    response.once("close", () => gone.abort(new ClientGone("the client hung up")));
    using _turn = await slots.session(session, gone.signal);
    const data = await backend.exportSession(session);
    response.writeHead(200, { "content-type": "application/octet-stream" });
    try {
      for await (const part of data) {
        gone.signal.throwIfAborted();
        if (!response.write(part)) await drained(response, clock, limits.writeIdleMs, gone.signal);
      }
      response.end();
    } catch (error) {
      // The status is out: only a cut connection tells the reader that bytes are missing.
      response.destroy();
      throw error;
    }
  }

  async import(session: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { slots, status } = this.#deps;
    const backend = status.forSessions();
    const gone = new AbortController();
    response.once("close", () => gone.abort(new ClientGone("the client hung up")));
    using _turn = await slots.session(session, gone.signal);
    await backend.importSession(session, ReadableStream.from(this.#bytesOf(request)));
    sendJson(response, 200, { imported: true });
  }

  /** The request's bytes. Nothing for `bodyMs` ends the connection; a caller that leaves early ends the iteration with an error. */
  async *#bytesOf(request: IncomingMessage): AsyncGenerator<Uint8Array> {
    const { clock, limits } = this.#deps;
    const guard = () => clock.after(limits.bodyMs, () => request.destroy());
    let cancel = guard();
    try {
      // The connection outlives a refusal, which must still be answered.
      for await (const part of request.iterator({ destroyOnReturn: false })) {
        cancel();
        yield part;
        cancel = guard();
      }
    } finally {
      cancel();
    }
  }
}

function unknownSession(): LLMPoolError {
  return new LLMPoolError("not_found", "this instance holds no such session");
}

/** Runs a call and answers its error, unless the answer has begun. */
export async function answering(response: ServerResponse, call: () => Promise<void>): Promise<void> {
  try {
    await call();
  } catch (error) {
    if (error instanceof ClientGone || response.headersSent || response.destroyed) return;
    sendError(response, error);
  }
}

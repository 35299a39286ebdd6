import type { ServerResponse } from "node:http";

/** What waits at most for a reader who does not read, in bytes. Who is cut off goes on from its `Last-Event-ID`. */
const MOST_UNREAD_BYTES = 1024 * 1024;

/**
 * One caller's stream of an episode's events, as SSE. What happens while the events before are read waits, and comes after them; each numbered
 * event is sent once, whichever way it comes first. After its end, and after its reader's, nothing is written.
 */
export class EventStream {
  readonly #res: ServerResponse;
  /** Number of the last event sent. */
  #last: number;
  /** Until it is live. */
  #waiting: (() => void)[] | undefined = [];

  /** `after`: the number of the last event that the reader has; `onClosed`: it is over, by whomever. */
  constructor(res: ServerResponse, after: number, onClosed: (stream: EventStream) => void) {
    this.#res = res;
    this.#last = after;
    res.on("close", () => onClosed(this));
    res.on("error", () => {});
    res.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
    });
  }

  get last(): number {
    return this.#last;
  }

  /** An event of before. */
  replay(event: string, data: object, seq: number): void {
    this.#write(event, data, seq);
  }

  /** All of before is sent. */
  live(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    for (const act of waiting) act();
  }

  /** Without a number: a heartbeat, which is not told again. */
  send(event: string, data: object, seq?: number): void {
    this.#inOrder(() => this.#write(event, data, seq));
  }

  end(): void {
    this.#inOrder(() => void this.#res.end());
  }

  #inOrder(act: () => void): void {
    if (this.#waiting) this.#waiting.push(act);
    else act();
  }

  #write(event: string, data: object, seq: number | undefined): void {
    const res = this.#res;
    if (res.writableEnded || res.destroyed) return;
    if (seq !== undefined) {
      if (seq <= this.#last) return;
      this.#last = seq;
    }
    res.write(`${seq === undefined ? "" : `id: ${seq}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    if (res.writableLength > MOST_UNREAD_BYTES) res.destroy();
  }
}

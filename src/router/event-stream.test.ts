import { EventEmitter } from "node:events";
import type { ServerResponse } from "node:http";
import { expect, test } from "vitest";
import { EventStream } from "./event-stream.ts";

/** A response whose reader takes nothing unless it is told to. */
class Response extends EventEmitter {
  text = "";
  writableLength = 0;
  writableEnded = false;
  destroyed = false;
  reads = true;
  writeHead(): void {}
  write(text: string): void {
    if (this.writableEnded || this.destroyed) throw new Error("written after the end");
    this.text += text;
    if (!this.reads) this.writableLength += text.length;
  }
  end(): void {
    this.writableEnded = true;
  }
  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }
}

function open(after = 0) {
  const res = new Response();
  const over: EventStream[] = [];
  const stream = new EventStream(res as unknown as ServerResponse, after, (closed) => over.push(closed));
  const ids = () => [...res.text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));
  return { res, stream, ids, over };
}

test("what happens while the events before are read comes after them, and each once", () => {
  const { res, stream, ids } = open(1);
  stream.send("progress", {}, 4);
  stream.send("heartbeat", {});
  for (const seq of [1, 2, 3, 4]) stream.replay("progress", {}, seq);
  expect(ids()).toEqual([2, 3, 4]);
  expect(res.text).not.toContain("heartbeat");
  stream.live();
  expect(ids()).toEqual([2, 3, 4]);
  expect(res.text).toMatch(/event: heartbeat\ndata: \{\}\n\n$/);
});

test("nothing is written after its end, which waits for nothing but the events before", () => {
  const { res, stream } = open();
  stream.end();
  stream.replay("ended", {}, 1);
  expect(res.writableEnded).toBe(false);
  stream.live();
  expect(res.writableEnded).toBe(true);
  const { text } = res;
  // The id is taken again, and the stream of before still waits for its reader.
  stream.send("heartbeat", {});
  stream.send("started", {}, 2);
  expect(res.text).toBe(text);
});

test("who does not read is cut off before it costs much memory, and can go on from what it has", () => {
  const { res, stream, over } = open();
  stream.live();
  res.reads = false;
  for (let seq = 1; !res.destroyed && seq < 10_000; seq++) stream.send("progress", { detail: "x".repeat(1024) }, seq);
  expect(res.writableLength).toBeGreaterThan(1024 * 1024);
  expect(res.writableLength).toBeLessThan(1.1 * 1024 * 1024);
  expect(over).toEqual([stream]);
});

import { StringDecoder } from "node:string_decoder";
import type { Client } from "./client.ts";
import { ApiError, type Status } from "./errors.ts";
import type { KubeObject } from "./object.ts";

export type WatchEvent<T extends KubeObject> =
  | { type: "ADDED" | "MODIFIED" | "DELETED"; object: T }
  /** Nothing happened; `version` is how far that is known. */
  | { type: "BOOKMARK"; version: string };

/** A line that is no event: something happened that nobody can know. */
export class MalformedEventError extends Error {
  override readonly name = "MalformedEventError";
}

/** The largest object that etcd takes is 1.5 MB; as JSON it stays far below this, in characters. */
const MAX_LINE = 16 * 1024 * 1024;

export interface WatchTarget {
  path: string;
  query: Record<string, string | number | boolean | undefined>;
}

export interface WatchListener<T extends KubeObject> {
  /** Bytes came, whatever they are. */
  onActivity(): void;
  onEvent(event: WatchEvent<T>): void;
}

/**
 * Reads one watch. Resolves when the server ends it, which is how every watch ends. Rejects with an ApiError when the server refuses it or
 * reports one in mid-stream (410: the version is too old), with MalformedEventError, with the connection's error, or with the signal's reason.
 */
export async function readWatch<T extends KubeObject>(
  client: Client,
  { path, query }: WatchTarget,
  listener: WatchListener<T>,
  signal: AbortSignal,
): Promise<void> {
  const chunks = await client.stream(path, { query: { ...query, watch: true, allowWatchBookmarks: true }, signal });
  const decoder = new StringDecoder("utf8");
  let begun: string[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    signal.throwIfAborted();
    listener.onActivity();
    const [first = "", ...others] = decoder.write(chunk).split("\n");
    begun.push(first);
    length += first.length;
    if (length > MAX_LINE) throw new MalformedEventError(`a line of more than ${MAX_LINE} characters`);
    for (const other of others) {
      take(begun.join(""), path, listener, signal);
      begun = [other];
      length = other.length;
    }
  }
  signal.throwIfAborted();
}

function take<T extends KubeObject>(line: string, path: string, listener: WatchListener<T>, signal: AbortSignal): void {
  // A listener may have ended the watch with the line before.
  signal.throwIfAborted();
  if (line.trim() !== "") listener.onEvent(parseEvent<T>(line, path));
}

function parseEvent<T extends KubeObject>(line: string, path: string): WatchEvent<T> {
  const { type, object } = parseLine(line);
  if (type === "ERROR") {
    const status = (object ?? {}) as Status;
    throw new ApiError(`WATCH ${path}`, status.code ?? 500, status);
  }
  const { metadata } = (object ?? {}) as Partial<KubeObject>;
  if (!metadata?.resourceVersion) throw new MalformedEventError(`no object: ${line.slice(0, 80)}`);
  if (type === "BOOKMARK") return { type, version: metadata.resourceVersion };
  if (type !== "ADDED" && type !== "MODIFIED" && type !== "DELETED")
    throw new MalformedEventError(`unknown event type ${JSON.stringify(type)}`);
  if (!metadata.name || !metadata.uid) throw new MalformedEventError(`an object without a name: ${line.slice(0, 80)}`);
  return { type, object: object as T };
}

function parseLine(line: string): { type?: unknown; object?: unknown } {
  try {
    const event: unknown = JSON.parse(line);
    if (typeof event === "object" && event !== null) return event;
  } catch {}
  throw new MalformedEventError(`no JSON: ${JSON.stringify(line.slice(0, 80))}`);
}

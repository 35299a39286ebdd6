import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer, type ServerOptions } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Credentials } from "../../src/kube/credentials.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { type Change, eventOf, FakeKubeStore, Refusal, type Selector, type Stored } from "./fake-kube-store.ts";

export interface Seen {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: IncomingMessage["headers"];
  body: string;
  watch: boolean;
}

export interface Fault {
  /** Which calls; all by default. */
  when?: (call: Seen) => boolean;
  /** How many of them; all by default. */
  times?: number;
  /** Before anything is done: an answer, a reset connection, or silence. After it was done: the answer is lost. */
  what:
    | { status: number; reason?: string; headers?: Record<string, string> }
    | { raw: string }
    | "reset"
    | "hang"
    | "reset after"
    | { statusAfter: number };
}

/** One open watch. */
export interface Watching {
  call: Seen;
  /** Nothing while it is stalled. */
  send(line: string): void;
  /** Exactly these, stalled or not. */
  bytes(bytes: Uint8Array | string): void;
  end(): void;
  reset(): void;
  /** From now on nothing comes any more, and nobody is told. */
  stall(): void;
}

/**
 * An API server with list, paging, watch, bookmarks, apply, preconditions and 410s as the real one has them, that fails as a test tells it. It
 * knows no schemas and no controllers, and apply means merge: whatever needs those is tested against the real one.
 */
export class FakeKube implements AsyncDisposable {
  readonly store = new FakeKubeStore();
  readonly seen: Seen[] = [];
  readonly watching = new Set<Watching>();
  readonly faults: Fault[] = [];
  /** TCP connections accepted so far. */
  connections = 0;
  /** Bearer tokens that are let in; undefined: everybody. */
  tokens: Set<string> | undefined;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #snapshots = new Map<string, Stored[]>();
  readonly #tls: boolean;

  private constructor(server: Server, tls: boolean) {
    this.#server = server;
    this.#tls = tls;
    server.on("request", (request, response) => this.#receive(request, response));
    server.on("connection", (socket: Socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    server.on("tlsClientError", () => {});
  }

  static async start(tls?: ServerOptions): Promise<FakeKube> {
    const server = tls ? createTlsServer(tls) : createServer();
    const fake = new FakeKube(server as Server, tls !== undefined);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return fake;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `${this.#tls ? "https" : "http"}://127.0.0.1:${this.port}`;
  }

  get credentials(): Credentials {
    return { server: this.url, namespace: "default", read: async () => ({ headers: {}, tls: {} }) };
  }

  /** Calls that changed or would have changed something. */
  get writes(): Seen[] {
    return this.seen.filter((call) => call.method !== "GET");
  }

  setCertificates(options: ServerOptions): void {
    (this.#server as unknown as { setSecureContext(o: ServerOptions): void }).setSecureContext(options);
  }

  fail(fault: Fault): void {
    this.faults.push(fault);
  }

  /** A bookmark of now to every watch. */
  bookmark(): void {
    for (const { send } of this.watching)
      send(JSON.stringify({ type: "BOOKMARK", object: { metadata: { resourceVersion: String(this.store.version) } } }));
  }

  /** No old version can be watched from any more. */
  compact(): void {
    this.store.compacted = this.store.version;
  }

  /** Resets every connection there is. */
  dropConnections(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #receive(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "", this.url);
    const chunks: Buffer[] = [];
    request.on("error", () => {});
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const call = seenOf(request, url, Buffer.concat(chunks));
      this.seen.push(call);
      this.#handle(call, response);
    });
  }

  #handle(call: Seen, response: ServerResponse): void {
    const fault = this.#takeFault(call);
    if (fault === "hang") return;
    if (fault === "reset") {
      reset(response);
      return;
    }
    if (typeof fault === "object" && "raw" in fault) {
      response.end(fault.raw);
      return;
    }
    try {
      if (typeof fault === "object" && "status" in fault) {
        for (const [name, value] of Object.entries(fault.headers ?? {})) response.setHeader(name, value);
        throw new Refusal(fault.status, fault.reason ?? "InternalError", "as the test asked for");
      }
      const token = call.headers.authorization?.replace("Bearer ", "") ?? "";
      if (this.tokens && !this.tokens.has(token)) throw new Refusal(401, "Unauthorized", "Unauthorized");
      if (call.watch) {
        this.#watch(call, response);
        return;
      }
      const { code, body } = this.#serve(call);
      if (fault === "reset after") {
        reset(response);
        return;
      }
      if (typeof fault === "object") throw new Refusal(fault.statusAfter, "Timeout", "applied, but you cannot know");
      response.writeHead(code, { "content-type": "application/json" }).end(JSON.stringify(body));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const { code, reason, message } = error;
      response
        .writeHead(code, { "content-type": "application/json" })
        .end(JSON.stringify({ kind: "Status", apiVersion: "v1", status: "Failure", code, reason, message }));
    }
  }

  #takeFault(call: Seen): Fault["what"] | undefined {
    const fault = this.faults.find(({ when }) => when === undefined || when(call));
    if (fault?.times !== undefined && --fault.times <= 0) this.faults.splice(this.faults.indexOf(fault), 1);
    return fault?.what;
  }

  #serve(call: Seen): { code: number; body: unknown } {
    const { collection, namespace, name } = parsePath(call.path);
    const key = namespace === undefined ? name : `${namespace}/${name}`;
    const body = call.body === "" ? {} : (JSON.parse(call.body) as KubeObject);
    switch (call.method) {
      case "GET":
        return { code: 200, body: name === undefined ? this.#list(call) : this.store.get(collection, key ?? "") };
      case "POST":
        return { code: 201, body: this.store.create(collection, body as KubeObject) };
      case "PUT":
        return { code: 200, body: this.store.replace(collection, body as KubeObject) };
      case "PATCH": {
        const apply = call.headers["content-type"]?.startsWith("application/apply-patch") ?? false;
        if (apply && !this.store.find(collection, key ?? ""))
          return { code: 201, body: this.store.create(collection, body as KubeObject) };
        return { code: 200, body: this.store.merge(collection, key ?? "", body) };
      }
      case "DELETE": {
        const { preconditions } = body as { preconditions?: { uid?: string; resourceVersion?: string } };
        return { code: 200, body: this.store.delete(collection, key ?? "", preconditions) };
      }
      default:
        throw new Refusal(405, "MethodNotAllowed", call.method);
    }
  }

  /** Pages come from one snapshot, which compaction ends. */
  #list(call: Seen): unknown {
    const { collection } = parsePath(call.path);
    const limit = Number(call.query.get("limit") ?? Number.POSITIVE_INFINITY);
    const [version = String(this.store.version), start = "0"] = call.query.get("continue")?.split(":") ?? [];
    if (Number(version) < this.store.compacted)
      throw new Refusal(410, "Expired", "The provided continue parameter is too old");
    const id = `${call.path} ${call.query.get("labelSelector")} ${version}`;
    const all = this.#snapshots.get(id) ?? this.store.list(collection, selectorOf(call));
    const end = Number(start) + limit;
    const items = all.slice(Number(start), end).map(({ apiVersion: _, kind: __, ...item }) => item);
    const more = end < all.length;
    if (more) this.#snapshots.set(id, all);
    return {
      kind: "List",
      metadata: { resourceVersion: version, ...(more ? { continue: `${version}:${end}` } : {}) },
      items,
    };
  }

  #watch(call: Seen, response: ServerResponse): void {
    const { collection } = parsePath(call.path);
    const from = Number(call.query.get("resourceVersion") ?? 0);
    if (from < this.store.compacted) throw new Refusal(410, "Expired", "too old resource version");
    let silent = false;
    const tell = (change: Change) => {
      if (change.collection !== collection) return;
      const event = eventOf(change, selectorOf(call));
      if (event) watching.send(JSON.stringify(event));
    };
    const watching: Watching = {
      call,
      send: (line) => void (silent || response.write(`${line}\n`)),
      bytes: (bytes) => void response.write(bytes),
      end: () => void response.end(),
      reset: () => reset(response),
      stall: () => {
        silent = true;
      },
    };
    response.writeHead(200, { "content-type": "application/json" });
    // The real one does it too: a client must not wait for the first event to know that it is in.
    response.flushHeaders();
    for (const change of this.store.changes) if (change.version > from) tell(change);
    this.store.onChange.add(tell);
    this.watching.add(watching);
    response.on("close", () => {
      this.store.onChange.delete(tell);
      this.watching.delete(watching);
    });
  }
}

function reset(response: ServerResponse): void {
  response.socket?.resetAndDestroy();
}

/** `/api/v1/namespaces/ns/pods/name`, `/apis/apps/v1/namespaces/ns/statefulsets/name/status` and the forms without namespace or name. */
function parsePath(path: string): { collection: string; namespace?: string; name?: string } {
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const version = parts.splice(0, parts[0] === "api" ? 2 : 3).slice(1);
  const inNamespace = parts[0] === "namespaces" && parts.length > 2;
  const namespace = inNamespace ? parts.splice(0, 2)[1] : undefined;
  const [plural = "", name] = parts;
  return {
    collection: [...version, plural].join("/"),
    ...(namespace === undefined ? {} : { namespace }),
    ...(name === undefined ? {} : { name }),
  };
}

function selectorOf({ path, query }: Seen): Selector {
  const { namespace } = parsePath(path);
  return { namespace, labels: query.get("labelSelector"), fields: query.get("fieldSelector") };
}

/** A call to an API server, as a test looks at it. */
export function seenOf({ method = "", headers }: IncomingMessage, url: URL, body: Buffer): Seen {
  const query = url.searchParams;
  return { method, path: url.pathname, query, headers, body: body.toString(), watch: query.get("watch") === "true" };
}

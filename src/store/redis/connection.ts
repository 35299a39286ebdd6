import { getCACertificates } from "node:tls";
import { LLMPoolError, messageOf } from "../../lib/errors.ts";
import type { Script } from "./scripts/scripts.ts";
import { checkServer, parseInfo } from "./server-check.ts";

/** A server that does not answer within this, in milliseconds, is away: who waits is denied. */
const COMMAND_MS = 2_000;
const CONNECT_MS = 2_000;

/** The few calls that we make of node-redis, which is loaded only when a pool asks for Redis. */
interface Client {
  connect(): Promise<unknown>;
  destroy(): void;
  on(event: "error" | "end", listener: (error: unknown) => void): unknown;
  info(): Promise<unknown>;
  evalSha(sha: string, options: { keys: string[]; arguments: string[] }): Promise<unknown>;
  eval(text: string, options: { keys: string[]; arguments: string[] }): Promise<unknown>;
  exists(key: string): Promise<unknown>;
}

export interface TlsFiles {
  ca?: Buffer;
  cert?: Buffer;
  key?: Buffer;
}

export interface ConnectionOptions {
  /** `redis[s]://[[user]:password@]host[:port][/db]`. Never logged, never in a message. */
  url: string;
  /** For `rediss://`: what to trust beside the public authorities, and what to show, as PEM. */
  tls?: TlsFiles;
  allowVolatile: boolean;
  /** Begins every key: in a Redis Cluster it says which node is asked. */
  prefix: string;
}

/**
 * One connection to one server, from its checks to its end. It does not come back: whoever lost it opens another, and so learns of
 * everything that happened to the server in between. A command that is not answered in time ends the connection, because nobody can say
 * whether it was executed.
 */
export class Connection {
  readonly #client: Client;
  /** The server's own name for its life: another one after a restart or a failover. */
  readonly runId: string;
  #lost: string | undefined;

  private constructor(client: Client, runId: string) {
    this.#client = client;
    this.runId = runId;
  }

  /** Rejects with `store_unavailable`: not reachable, not let in, or not a server that may hold the state; the message names the cure. */
  static async open(options: ConnectionOptions): Promise<Connection> {
    const { url, tls = {}, allowVolatile, prefix } = options;
    const client = await makeClient(url, tls);
    let lost: string | undefined;
    let tell = (why: string) => {
      lost ??= why;
    };
    client.on("error", (error) => tell(messageOf(error)));
    client.on("end", () => tell("the connection was closed"));
    try {
      await within(client.connect(), CONNECT_MS);
      // All keys are in one slot, so in a cluster one node has them all, and a plain connection to that one is enough.
      const owner = await within(client.exists(prefix), COMMAND_MS).then(() => undefined, movedTo);
      if (owner !== undefined) {
        client.destroy();
        return await Connection.open({ ...options, url: withHost(url, owner) });
      }
      const info = parseInfo(String(await within(client.info(), COMMAND_MS)));
      const problem = checkServer(info, allowVolatile);
      if (problem) throw new Error(problem);
      const connection = new Connection(client, info.get("run_id") ?? "");
      tell = (why) => {
        connection.#lost ??= why;
      };
      if (lost !== undefined) tell(lost);
      return connection;
    } catch (error) {
      if (error instanceof LLMPoolError) throw error;
      client.destroy();
      throw unavailable(`Redis cannot be used: ${messageOf(error)}`, error);
    }
  }

  /** Why it is of no more use. */
  get lost(): string | undefined {
    return this.#lost;
  }

  /** Runs a script and reads its answer. Rejects with the server's error, or with `store_unavailable`, and is then lost. */
  async run(script: Script, prefix: string, args: object): Promise<unknown> {
    if (this.#lost !== undefined) throw unavailable(`Redis is away: ${this.#lost}`);
    const options = { keys: [prefix], arguments: [JSON.stringify(args)] };
    try {
      const answer = await within(this.#client.evalSha(script.sha, options), COMMAND_MS).catch((error: unknown) => {
        if (!messageOf(error).startsWith("NOSCRIPT")) throw error;
        return within(this.#client.eval(script.text, options), COMMAND_MS);
      });
      return JSON.parse(String(answer));
    } catch (error) {
      // A slot that has moved is looked for again.
      if (isReply(error) && !/^(MOVED|ASK|READONLY) /.test(messageOf(error))) throw error;
      this.#lost ??= messageOf(error);
      this.close();
      throw unavailable(`Redis is away: ${this.#lost}`, error);
    }
  }

  close(): void {
    this.#lost ??= "closed";
    try {
      this.#client.destroy();
    } catch {
      // It has ended by itself.
    }
  }
}

/** An error that the server itself answered: the connection is sound, and nothing is left unknown. */
function isReply(error: unknown): boolean {
  return error instanceof Error && ["SimpleError", "ErrorReply"].includes(error.constructor.name);
}

/** The node that has the slot, as the asked one says; throws what is no such answer. */
function movedTo(error: unknown): string {
  const address = /^MOVED \d+ (\S+)$/.exec(messageOf(error))?.[1];
  if (address === undefined) throw error;
  return address;
}

/** The same user, password and scheme at another address; a node that does not know its own name gives the port alone. */
function withHost(url: string, address: string): string {
  const moved = new URL(url);
  const colon = address.lastIndexOf(":");
  const host = address.slice(0, colon);
  if (host !== "") moved.hostname = host.includes(":") ? `[${host}]` : host;
  moved.port = address.slice(colon + 1);
  return moved.href;
}

export function unavailable(message: string, cause?: unknown, retryAfterSeconds = 1): LLMPoolError {
  return new LLMPoolError("store_unavailable", message, { cause, retryAfterSeconds });
}

async function makeClient(url: string, { ca, cert, key }: TlsFiles): Promise<Client> {
  const redis = await import("redis").catch((error: unknown) => {
    throw unavailable("the package `redis` is not installed: run npm install redis", error);
  });
  try {
    return redis.createClient({
      url,
      disableOfflineQueue: true,
      disableClientInfo: true,
      maintNotifications: "disabled",
      socket: {
        connectTimeout: CONNECT_MS,
        reconnectStrategy: false,
        ...(url.startsWith("rediss:") && { tls: true, ...(ca && { ca: [...getCACertificates(), ca.toString()] }) }),
        ...(cert && { cert }),
        ...(key && { key }),
      },
    }) as unknown as Client;
  } catch {
    // The cause would quote the URL, and with it the password.
    throw unavailable("the Redis URL is not valid: write redis://[[user]:password@]host[:port], or rediss:// for TLS");
  }
}

async function within<T>(work: Promise<T>, ms: number): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

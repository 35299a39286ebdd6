import { createSecureContext, getCACertificates } from "node:tls";
import { type Dispatcher, EnvHttpProxyAgent } from "undici";
import { StartError } from "../api/instance.ts";
import { messageOf } from "../lib/errors.ts";
import type { Context } from "./context.ts";
import { Incoming } from "./incoming.ts";
import { TransientError } from "./retry.ts";
import { isAllowedUrl } from "./uri.ts";

/** Silence after which a connection counts as dead, in milliseconds. */
export const STALL_MS = 60_000;
const MAX_REDIRECTS = 10;
const MAX_JSON_BYTES = 64 * 2 ** 20;

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** Where the last redirect led. */
  url: URL;
  /** Throws TransientError on a cut or a stall. */
  body: AsyncIterable<Buffer>;
  /** Drops the connection; for a body that nobody reads. */
  discard(): void;
}

/** Connections of one call: the environment's proxies, and the machine's certificate authorities beside Node's own. */
export function makeDispatcher(env: Context["env"]): Dispatcher {
  // Made once: reading hundreds of certificates for each connection costs more than the handshake.
  const ca = [...getCACertificates("default"), ...getCACertificates("system")];
  const tls = { secureContext: createSecureContext({ ca }) };
  return new EnvHttpProxyAgent({
    httpProxy: env.http_proxy ?? env.HTTP_PROXY ?? "",
    httpsProxy: env.https_proxy ?? env.HTTPS_PROXY ?? "",
    noProxy: env.no_proxy ?? env.NO_PROXY ?? "",
    connect: { ...tls, timeout: STALL_MS / 2 },
    requestTls: tls,
    proxyTls: tls,
    headersTimeout: 0,
    bodyTimeout: 0,
  });
}

/** Takes user and password out of a URL, as the header they stand for. */
export function splitCredentials(url: URL): { url: URL; authorization?: string } {
  if (url.username === "" && url.password === "") return { url };
  const bare = new URL(url);
  bare.username = "";
  bare.password = "";
  const pair = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return { url: bare, authorization: `Basic ${Buffer.from(pair).toString("base64")}` };
}

/**
 * GET, following redirects. `authorization` goes to the URL's own origin only: the first redirect elsewhere drops it for good.
 * Throws TransientError when the network fails, StartError when trying again cannot help, the signal's reason when it aborts.
 */
export async function get(
  context: Context,
  url: URL,
  options: { headers?: Record<string, string>; authorization?: string | undefined } = {},
): Promise<Reply> {
  let authorization = options.authorization;
  let at = url;
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const headers = { "user-agent": "llmpool", "accept-encoding": "identity", ...options.headers };
    const reply = await send(context, at, authorization === undefined ? headers : { ...headers, authorization });
    const location = reply.headers.location;
    if (![301, 302, 303, 307, 308].includes(reply.status) || typeof location !== "string") return reply;
    reply.discard();
    const next = URL.parse(location, at.href);
    if (next === null || !isAllowedUrl(next)) {
      throw new StartError("ModelDownloadFailed", `${at.host} redirects to a place that is not https://: not followed`);
    }
    if (next.origin !== at.origin) authorization = undefined;
    at = next;
  }
  throw new StartError("ModelDownloadFailed", `${url.host} redirects more than ${MAX_REDIRECTS} times`);
}

/** The whole body as text, at most 64 MiB. */
export async function readText(reply: Reply): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of reply.body) {
    bytes += chunk.length;
    if (bytes > MAX_JSON_BYTES)
      throw new StartError("ModelDownloadFailed", `${reply.url.host} sends an endless answer`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The error for an answer that is no success. `access` says how to get in, `what` what was asked for. */
export function refusal(reply: Reply, what: string, access: string): Error {
  reply.discard();
  const { status } = reply;
  const said = `${reply.url.host} answers ${status}`;
  if (status === 401 || status === 403) {
    return new StartError("ModelDownloadFailed", `access to ${what} is denied (${said}): ${access}`);
  }
  if (status === 404 || status === 410) {
    return new StartError("ModelNotFound", `${what} does not exist (${said}): check the name in model.uri`);
  }
  if (status === 408 || status === 429 || status >= 500) {
    const seconds = Number(reply.headers["retry-after"]);
    return new TransientError(said, { retryAfterMs: seconds > 0 ? seconds * 1000 : undefined });
  }
  return new StartError("ModelDownloadFailed", `cannot download ${what}: ${said}`);
}

async function send(context: Context, url: URL, headers: Record<string, string>): Promise<Reply> {
  let unwatch = () => {};
  const incoming = new Incoming((waiting) => {
    unwatch();
    if (!waiting) return;
    unwatch = context.clock.after(STALL_MS, () =>
      incoming.abort(new TransientError(`${url.host} sends nothing for ${STALL_MS / 1000} s`)),
    );
  });
  const stop = () => incoming.abort(context.signal.reason);
  const explain = (error: unknown) => {
    if (context.signal.aborted) return context.signal.reason;
    return error instanceof TransientError ? error : networkError(url, error);
  };
  async function* body(): AsyncGenerator<Buffer> {
    try {
      yield* incoming.body();
    } catch (error) {
      throw explain(error);
    } finally {
      context.signal.removeEventListener("abort", stop);
    }
  }
  const discard = () => {
    context.signal.removeEventListener("abort", stop);
    incoming.abort(new Error("nobody wants it"));
  };
  context.signal.addEventListener("abort", stop, { once: true });
  try {
    const path = url.pathname + url.search;
    context.dispatcher.dispatch({ origin: url.origin, path, method: "GET", headers }, incoming);
    const { status, headers: answered } = await incoming.head;
    return { status, headers: answered, url, body: body(), discard };
  } catch (error) {
    discard();
    throw explain(error);
  }
}

function networkError(url: URL, error: unknown): Error {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  if (/CERT|SELF_SIGNED|UNABLE_TO_(GET|VERIFY)|ERR_TLS/.test(code)) {
    return new StartError(
      "ModelDownloadFailed",
      `the certificate of ${url.host} is not trusted (${code}): set NODE_EXTRA_CA_CERTS to your proxy's or company's CA file`,
      { cause: error },
    );
  }
  const words: Record<string, string> = {
    ENOTFOUND: `no such host ${url.hostname}, or no network`,
    EAI_AGAIN: `cannot look up ${url.hostname}: no network or no DNS`,
    ECONNREFUSED: `${url.host} refuses the connection`,
    ENETUNREACH: `${url.host} cannot be reached: no network`,
    EHOSTUNREACH: `${url.host} cannot be reached`,
    UND_ERR_CONNECT_TIMEOUT: `${url.host} does not answer`,
  };
  return new TransientError(words[code] ?? `connection to ${url.host} lost (${code || messageOf(error)})`, {
    cause: error,
  });
}

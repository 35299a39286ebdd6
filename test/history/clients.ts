import type { Call } from "./history.ts";
import type { Random } from "./random.ts";
import { keyOf, ROLES, type RouterSlot, TENANTS, type World } from "./world.ts";

const CLIENTS = 200;
/** Clients begin within this time, in milliseconds. */
const ARRIVAL_MS = 3_500;
/** No answer within this is none, in milliseconds: three times what the request may take. */
const SILENCE_MS = 30_000;
export const EPISODES = ["e0", "e1", "e2", "e3", "e4"];
/** One of each caller has a deadline that comes while it runs, and one goes on as long as there is progress, up to a last end. */
const SHORT = "e3";
const EXTENDED = "e4";

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** What all clients of a run do, and how each of their requests ends. Resolves when the last one is done. */
export async function runClients(world: World, random: Random): Promise<Call[]> {
  const calls: Call[] = [];
  for (const tenant of TENANTS) {
    const start = (body: object) => post(random.pick(world.routers), "/v1/episodes", tenant, body);
    await start({ id: SHORT, timeout_s: random.between(2, 4), extend_s: 0 });
    await start({ id: EXTENDED, timeout_s: 2, extend_s: 1, max_timeout_s: random.between(4, 8) });
  }
  const one = async (n: number, own: Random) => {
    await pause(own.between(0, ARRIVAL_MS));
    const requests = own.between(1, 3);
    for (let k = 0; k < requests; k++) {
      const request = makeRequest(own, n, k);
      for (let attempt = 0; attempt < 5; attempt++) {
        const call = await send(request, `mark_${n}_${k}_${attempt}`, own.pick(world.routers));
        calls.push(call);
        if (request.headers["x-episode-id"] === EXTENDED)
          await reportEverywhere(world, TENANTS[n % TENANTS.length] ?? "");
        if (!isWorthARetry(call)) break;
        await pause(own.between(50, 800));
      }
      await pause(own.between(0, 300));
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, (_, n) => one(n, random.fork())));
  return calls;
}

/** The same progress at every router at once: it is worth one extension. */
async function reportEverywhere({ routers }: World, tenant: string): Promise<void> {
  const report = { event: "patch" };
  await Promise.all(routers.map((router) => post(router, `/v1/episodes/${EXTENDED}/progress`, tenant, report)));
}

/** Whatever comes of it: the store says what it has done. */
async function post({ url }: RouterSlot, path: string, tenant: string, body: object): Promise<void> {
  const signal = AbortSignal.timeout(SILENCE_MS);
  await fetch(url + path, { method: "POST", headers: headersOf(tenant), body: JSON.stringify(body), signal })
    .then((answer) => answer.text())
    .catch(() => {});
}

interface Request {
  headers: Record<string, string>;
  stream: boolean;
  maxTokens: number | undefined;
  directive: string;
  words: number;
  hangUpMs: number | undefined;
}

function makeRequest(random: Random, n: number, k: number): Request {
  const headers = headersOf(TENANTS[n % TENANTS.length] ?? "");
  // A retry carries the same one: that makes it no other request for the caller, and another one for the budgets.
  headers["x-request-id"] = `client-${n}-${k}`;
  headers["x-request-timeout"] = String(random.between(5, 9));
  if (random.chance(0.7)) headers["x-llmpool-role"] = random.pick(ROLES);
  else headers["x-agent-id"] = `agent-${random.between(0, 9)}`;
  if (random.chance(0.4)) headers["x-session-id"] = `s${n % 50}`;
  if (random.chance(0.8)) headers["x-episode-id"] = random.pick(EPISODES);
  if (random.chance(0.2)) headers["x-llmpool-budget"] = "clamp";
  const fault = random.chance(0.06) ? ` ${random.pick(["break=3", "fail", "break=0"])}` : "";
  const [tokens, gap] = [random.between(5, 40), random.between(1, 8)];
  return {
    headers,
    stream: random.chance(0.6),
    maxTokens: random.chance(1 / 3) ? undefined : random.between(5, 80),
    directive: `!stub ttftMs=${random.between(0, 40)} interTokenMs=${gap} replyTokens=${tokens} vary${fault}`,
    words: random.between(1, 30),
    hangUpMs: random.chance(0.15) ? random.between(0, 250) : undefined,
  };
}

async function send(request: Request, marker: string, router: RouterSlot): Promise<Call> {
  const { headers, stream, maxTokens, directive, words, hangUpMs } = request;
  const { kills, child } = router;
  const cut = new AbortController();
  const hangUp = hangUpMs === undefined ? undefined : setTimeout(() => cut.abort("hung up"), hangUpMs);
  const silence = setTimeout(() => cut.abort("silence"), SILENCE_MS);
  const end = (ending: Call["ending"]): Call => ({ marker, faulty: / (fail|break)/.test(directive), ending });
  try {
    const content = `${directive}\n${marker} ${"word ".repeat(words)}`;
    const answer = await fetch(`${router.url}/v1/chat/completions`, {
      method: "POST",
      headers,
      body: JSON.stringify({
        messages: [{ role: "user", content }],
        ...(maxTokens !== undefined && { max_tokens: maxTokens }),
        ...(stream && { stream, stream_options: { include_usage: true } }),
      }),
      signal: cut.signal,
    });
    return end(endingOf(await answer.text(), answer.headers.get("content-type") ?? ""));
  } catch (error) {
    if (cut.signal.reason === "hung up") return end({ kind: "hung up" });
    if (cut.signal.reason === "silence") return end({ kind: "silence" });
    const { cause } = error as Error;
    const message = `${error instanceof Error ? error.message : error}: ${cause instanceof Error ? cause.message : ""}`;
    return end({ kind: "lost", killed: router.kills > kills || child === undefined, message });
  } finally {
    clearTimeout(hangUp);
    clearTimeout(silence);
  }
}

interface Answer {
  usage?: { total_tokens: number } | null;
  error?: { code?: string };
}

function endingOf(text: string, type: string): Call["ending"] {
  try {
    const isStream = type.startsWith("text/event-stream");
    const frames = isStream ? text.split("\n\n").filter((f) => f.startsWith("data: ")) : [`data: ${text}`];
    const said = frames.filter((f) => f !== "data: [DONE]").map((f) => JSON.parse(f.slice(6)) as Answer);
    const code = said.find(({ error }) => error)?.error?.code;
    if (code !== undefined) return { kind: "refused", code };
    const tokens = said.find(({ usage }) => usage)?.usage?.total_tokens;
    const isWhole = !isStream || frames.at(-1) === "data: [DONE]";
    if (isWhole && tokens !== undefined) return { kind: "answered", tokens };
  } catch {
    // Said below.
  }
  return { kind: "malformed", text: text.slice(-200) };
}

function isWorthARetry({ ending }: Call): boolean {
  if (ending.kind === "lost") return true;
  if (ending.kind !== "refused") return false;
  return ["store_unavailable", "instance_unavailable", "session_lost", "upstream_error", "queue_full"].includes(
    ending.code,
  );
}

export function headersOf(tenant: string): Record<string, string> {
  return { authorization: `Bearer ${keyOf(tenant)}`, "content-type": "application/json" };
}

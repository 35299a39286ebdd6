import { randomBytes } from "node:crypto";
import { createInterface, type Interface } from "node:readline";
import { Writable } from "node:stream";
import { text } from "node:stream/consumers";
import type { Command } from "commander";
import { Id } from "../../api/http.ts";
import { type ChatMessage, type Generation, type LLMClient, LLMPoolClientError } from "../../client/index.ts";
import { llmpoolCommand } from "../../dev/hints.ts";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { type ConnectionFlags, connect, withConnection } from "../connection.ts";
import type { CliIo } from "../io.ts";
import { UsageError } from "../usage-error.ts";

interface ChatFlags extends ConnectionFlags {
  role?: string;
  session?: string;
  episode?: string;
  maxTokens?: number;
}

/** `llmpool chat`: one question, or a conversation whose KV cache stays warm. */
export function registerChat(program: Command, io: CliIo, clock: Clock = systemClock): void {
  const command = withConnection(program.command("chat").description("talk to a role of a running pool"))
    .argument("[prompt...]", "the question; without it standard input, or a conversation on a terminal")
    .option("--role <role>", "which role; default: the pool's first")
    .option("--session <id>", "conversation whose cache to use; default: none, and a new one on a terminal")
    .option("--episode <id>", "episode that it counts for")
    .option("--max-tokens <n>", "most tokens of an answer", Number)
    .action(async (words: string[], flags: ChatFlags) => {
      if (flags.maxTokens !== undefined && !(Number.isSafeInteger(flags.maxTokens) && flags.maxTokens > 0)) {
        throw new UsageError("--max-tokens must be a whole number above 0");
      }
      for (const name of ["session", "episode"] as const) checkId(`--${name}`, flags[name]);
      const { client } = connect(flags, io);
      const role = await roleOf(client, flags.role, io);
      const verbose = Boolean(command.optsWithGlobals().verbose);
      const conversation = words.length === 0 && io.stdin?.terminal === true && io.terminal !== undefined;
      const session = flags.session ?? (conversation ? `chat-${randomBytes(6).toString("hex")}` : undefined);
      const talk = new Talk({ client, role, session, flags, io, clock, verbose });
      if (!conversation) return talk.turn(words.length > 0 ? words.join(" ") : await readInput(io), io.signal);
      await converse(talk, io);
      // Nobody else knows its id: its cache would only take room.
      if (session !== undefined && flags.session === undefined) await client.deleteSession(session).catch(() => {});
    });
}

/** As the router takes them, which would name a header. */
function checkId(flag: string, id: string | undefined): void {
  const { error } = Id.optional().safeParse(id);
  if (error) throw new UsageError(`${flag} ${error.issues[0]?.message}`);
}

/** A role that does not exist would be an agent's id like any other, and answer from somewhere: it is refused here, where the key may look. */
async function roleOf(client: LLMClient, asked: string | undefined, io: CliIo): Promise<string> {
  let instances: Awaited<ReturnType<LLMClient["instances"]>>;
  try {
    instances = await client.instances({ signal: io.signal });
  } catch (error) {
    if (!(error instanceof LLMPoolClientError) || error.code !== "forbidden") throw error;
    if (asked === undefined) throw new UsageError(`${error.message}: name the role with --role`);
    return asked.toLowerCase();
  }
  const roles = [...new Set(instances.flatMap((instance) => instance.roles))];
  const role = asked === undefined ? roles[0] : roles.find((name) => name === asked.toLowerCase());
  if (role !== undefined) return role;
  if (roles.length === 0) throw new Error("the pool has no roles");
  throw new UsageError(`there is no role "${asked}"; the pool has ${roles.join(", ")}`);
}

async function readInput({ stdin, env }: CliIo): Promise<string> {
  const prompt = stdin && !stdin.terminal ? (await text(stdin.stream)).trim() : "";
  if (prompt === "")
    throw new UsageError(
      `nothing to ask: write ${llmpoolCommand(env)} chat --role planner "a question", or pipe one in`,
    );
  return prompt;
}

interface TalkDeps {
  client: LLMClient;
  role: string;
  /** Absent: each turn is a one-off. */
  session: string | undefined;
  flags: ChatFlags;
  io: CliIo;
  clock: Clock;
  verbose: boolean;
}

class Talk {
  readonly #deps: TalkDeps;
  /** The router keeps no history: each turn carries all of it, and the session makes that cheap. */
  #messages: ChatMessage[] = [];

  constructor(deps: TalkDeps) {
    this.#deps = deps;
  }

  get role(): string {
    return this.#deps.role;
  }

  /** Prints the answer as it comes. A turn that fails leaves no trace in the conversation. */
  async turn(prompt: string, signal: AbortSignal): Promise<void> {
    const { client, role, session, flags, io, clock, verbose } = this.#deps;
    const messages: ChatMessage[] = [...this.#messages, { role: "user", content: prompt }];
    const began = clock.now();
    const options = { sessionId: session, episodeId: flags.episode, maxNewTokens: flags.maxTokens, signal };
    let printed = false;
    try {
      for await (const event of client.stream(role, messages, options)) {
        if (event.type === "stage" && verbose) io.stderr(`(${event.stage})\n`);
        if (event.type === "text") {
          io.stdout(io.terminal ? harmless(event.text) : event.text);
          printed = true;
        }
        if (event.type !== "done") continue;
        this.#messages = [...messages, { role: "assistant", content: event.generation.text }];
        io.stdout("\n");
        printed = false;
        this.#explain(event.generation, (clock.now() - began) / 1000);
      }
    } finally {
      if (printed) io.stdout("\n");
    }
  }

  #explain({ instanceId, usage, rebound, finishReason, queueMs }: Generation, seconds: number): void {
    const { io, session, verbose } = this.#deps;
    if (rebound) io.stderr("(the conversation moved to another instance: its cache was built anew)\n");
    if (finishReason === "length") io.stderr("(cut at the token limit)\n");
    if (!verbose) return;
    const queued = queueMs ? `, ${(queueMs / 1000).toFixed(1)} s queued` : "";
    io.stderr(
      `(${session === undefined ? "" : `session ${session} `}on instance ${instanceId}: ${usage.promptTokens} prompt tokens, ${usage.cachedTokens} of them cached, ${usage.completionTokens} new in ${seconds.toFixed(1)} s${queued})\n`,
    );
  }
}

/** Without control characters: what a model writes must not steer a terminal. */
function harmless(answer: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not reach a terminal.
  return answer.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "");
}

/** Lines of a person until Ctrl-D or Ctrl-C at the prompt; Ctrl-C while an answer comes stops that answer. */
async function converse(talk: Talk, io: CliIo): Promise<void> {
  io.stderr(`talking to ${talk.role}; Ctrl-D ends\n`);
  const output = new Writable({
    write(chunk, _encoding, done) {
      io.terminal?.write(String(chunk));
      done();
    },
  });
  const input = io.stdin?.stream ?? process.stdin;
  const lines = createInterface({ input, output, terminal: true, prompt: `${talk.role}> ` });
  let answering: AbortController | undefined;
  // In raw mode the terminal sends no signal: readline reports the key.
  const stop = () => (answering ? answering.abort(new Error("stopped")) : lines.close());
  lines.on("SIGINT", stop);
  io.signal.addEventListener("abort", () => lines.close(), { once: true });
  try {
    for await (const line of prompted(lines)) {
      if (line.trim() === "") continue;
      answering = new AbortController();
      await answer(talk, line, AbortSignal.any([io.signal, answering.signal]), io);
      answering = undefined;
    }
  } finally {
    lines.close();
    io.terminal?.write("\n");
  }
}

async function* prompted(lines: Interface): AsyncGenerator<string> {
  // Ctrl-D while an answer comes: it is the last one.
  let closed = false;
  lines.once("close", () => {
    closed = true;
  });
  lines.prompt();
  for await (const line of lines) {
    yield line;
    if (closed) return;
    lines.prompt();
  }
}

async function answer(talk: Talk, line: string, signal: AbortSignal, io: CliIo): Promise<void> {
  try {
    await talk.turn(line, signal);
  } catch (error) {
    if (signal.aborted) return io.stderr("(stopped)\n");
    if (!(error instanceof LLMPoolClientError)) throw error;
    io.stderr(`${error.code}: ${error.message}\n`);
  }
}

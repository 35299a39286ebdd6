import { randomBytes } from "node:crypto";
import { createInterface, type Interface } from "node:readline";
import { Writable } from "node:stream";
import { text } from "node:stream/consumers";
import type { Command } from "commander";
import { type ChatMessage, type Generation, type LLMClient, LLMPoolClientError } from "../../client/index.ts";
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
    .option("--session <id>", "conversation to go on with; default: a new one")
    .option("--episode <id>", "episode that it counts for")
    .option("--max-tokens <n>", "most tokens of an answer", Number)
    .action(async (words: string[], flags: ChatFlags) => {
      if (flags.maxTokens !== undefined && !(Number.isSafeInteger(flags.maxTokens) && flags.maxTokens > 0)) {
        throw new UsageError("--max-tokens must be a whole number above 0");
      }
      const { client } = connect(flags, io);
      const talk = new Talk(
        client,
        await roleOf(client, flags.role, io),
        flags,
        io,
        clock,
        Boolean(command.optsWithGlobals().verbose),
      );
      if (words.length === 0 && io.stdin?.terminal && io.terminal) return converse(talk, io);
      const prompt = words.length > 0 ? words.join(" ") : await readInput(io);
      await talk.turn(prompt, io.signal);
    });
}

/** A role that does not exist would be an agent's id like any other, and answer from somewhere: it is refused here. */
async function roleOf(client: LLMClient, asked: string | undefined, io: CliIo): Promise<string> {
  const instances = await client.instances({ signal: io.signal });
  const roles = [...new Set(instances.flatMap((instance) => instance.roles))];
  const role = asked === undefined ? roles[0] : roles.find((name) => name === asked.toLowerCase());
  if (role !== undefined) return role;
  if (roles.length === 0) throw new Error("the pool has no roles");
  throw new UsageError(`there is no role "${asked}"; the pool has ${roles.join(", ")}`);
}

async function readInput({ stdin }: CliIo): Promise<string> {
  const prompt = stdin && !stdin.terminal ? (await text(stdin.stream)).trim() : "";
  if (prompt === "")
    throw new UsageError('nothing to ask: write llmpool chat --role planner "a question", or pipe one in');
  return prompt;
}

class Talk {
  readonly role: string;
  readonly #client: LLMClient;
  readonly #flags: ChatFlags;
  readonly #io: CliIo;
  readonly #clock: Clock;
  readonly #verbose: boolean;
  readonly #session: string;
  /** The router keeps no history: each turn carries all of it, and the session makes that cheap. */
  #messages: ChatMessage[] = [];

  constructor(client: LLMClient, role: string, flags: ChatFlags, io: CliIo, clock: Clock, verbose: boolean) {
    this.#client = client;
    this.role = role;
    this.#flags = flags;
    this.#io = io;
    this.#clock = clock;
    this.#verbose = verbose;
    this.#session = flags.session ?? `chat-${randomBytes(6).toString("hex")}`;
  }

  /** Prints the answer as it comes. A turn that fails leaves no trace in the conversation. */
  async turn(prompt: string, signal: AbortSignal): Promise<void> {
    const messages: ChatMessage[] = [...this.#messages, { role: "user", content: prompt }];
    const began = this.#clock.now();
    const options = {
      sessionId: this.#session,
      episodeId: this.#flags.episode,
      maxNewTokens: this.#flags.maxTokens,
      signal,
    };
    let printed = false;
    try {
      for await (const event of this.#client.stream(this.role, messages, options)) {
        if (event.type === "stage" && this.#verbose) this.#io.stderr(`(${event.stage})\n`);
        if (event.type === "text") {
          this.#io.stdout(event.text);
          printed = true;
        }
        if (event.type !== "done") continue;
        this.#messages = [...messages, { role: "assistant", content: event.generation.text }];
        this.#io.stdout("\n");
        printed = false;
        this.#explain(event.generation, (this.#clock.now() - began) / 1000);
      }
    } finally {
      if (printed) this.#io.stdout("\n");
    }
  }

  #explain({ instanceId, usage, rebound, finishReason, queueMs }: Generation, seconds: number): void {
    if (rebound) this.#io.stderr("(the conversation moved to another instance: its cache was built anew)\n");
    if (finishReason === "length") this.#io.stderr("(cut at the token limit)\n");
    if (!this.#verbose) return;
    const queued = queueMs ? `, ${(queueMs / 1000).toFixed(1)} s queued` : "";
    this.#io.stderr(
      `(session ${this.#session} on instance ${instanceId}: ${usage.promptTokens} prompt tokens, ${usage.cachedTokens} of them cached, ${usage.completionTokens} new in ${seconds.toFixed(1)} s${queued})\n`,
    );
  }
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
  lines.prompt();
  for await (const line of lines) {
    yield line;
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

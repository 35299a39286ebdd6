import { inspect } from "node:util";
import { Command, CommanderError } from "commander";
import { messageOf } from "../lib/errors.ts";
import type { CliIo } from "./io.ts";
import { UsageError } from "./usage-error.ts";

type Register = (program: Command, io: CliIo) => void;

interface CommandEntry {
  description: string;
  load: () => Promise<Register>;
  /** Runs until it is told to end: who reads what it prints may go, and it goes on. */
  serves?: true;
}

/** Every command: what `llmpool --help` says of it, and where it lives. Its module is loaded only when it is called. */
export const COMMANDS: Record<string, CommandEntry> = {
  dev: {
    description: "run a pool on this machine, and follow edits of its file",
    load: async () => (await import("./commands/dev.ts")).registerDev,
    serves: true,
  },
  validate: {
    description: "check LLMPool files as a cluster would: every problem, with its field and cure",
    load: async () => (await import("./commands/validate.ts")).registerValidate,
  },
  render: {
    description: "print the plan of a pool, or with --objects what the operator would apply",
    load: async () => (await import("./commands/render.ts")).registerRender,
  },
  status: {
    description: "show a running pool, here or on a cluster: its instances and roles",
    load: async () => (await import("./commands/status.ts")).registerStatus,
  },
  chat: {
    description: "talk to a role of a running pool",
    load: async () => (await import("./commands/chat.ts")).registerChat,
  },
  episodes: {
    description: "list, show, follow and end the episodes of a running pool",
    load: async () => (await import("./commands/episodes.ts")).registerEpisodes,
  },
  sessions: {
    description: "list and free the sessions of a running pool",
    load: async () => (await import("./commands/sessions.ts")).registerSessions,
  },
  doctor: {
    description: "check what this machine has for running pools, or a cluster, and say how to cure what is missing",
    load: async () => (await import("./commands/doctor.ts")).registerDoctor,
  },
  router: {
    description: "run the router alone, in front of instances that something else runs",
    load: async () => (await import("./commands/router.ts")).registerRouter,
    serves: true,
  },
  operator: {
    description: "look after the LLMPools of a Kubernetes cluster",
    load: async () => (await import("./commands/operator.ts")).registerOperator,
    serves: true,
  },
  supervise: {
    description: "run the instances that a file lists, and follow its edits: one pod's part of a Packed pool",
    load: async () => (await import("./commands/supervise.ts")).registerSupervise,
    serves: true,
  },
  load: {
    description: "fetch a model into a cache folder, and print what it is and takes as JSON",
    load: async () => (await import("./commands/load.ts")).registerLoad,
  },
  runtime: {
    description: "serve one instance, as LLMPOOL_INSTANCE (JSON) or a file says",
    load: async () => (await import("./commands/runtime.ts")).registerRuntime,
    serves: true,
  },
};

/** Runs one command line (without the program's own name) and sets the exit code. Never rejects. */
export async function runCli(args: readonly string[], io: CliIo, version: string): Promise<void> {
  const program = new Command("llmpool")
    .description("N isolated model processes with agent roles behind one role-aware router.")
    .version(version, "-V, --version", "print the version")
    .option("-v, --verbose", "say more: the stack of an error, where an answer came from")
    .configureOutput({ writeOut: (text) => io.stdout(text), writeErr: (text) => io.stderr(text) })
    .exitOverride();
  try {
    await registerCalled(program, args, io);
    if (args.length === 0) return program.outputHelp();
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return io.setExitCode(error.exitCode === 0 ? 0 : 2);
    // Ctrl-C needs no explanation.
    if (!io.signal.aborted) io.stderr(`llmpool: ${program.opts().verbose ? inspect(error) : said(error)}\n`);
    io.setExitCode(error instanceof UsageError ? 2 : 1);
  }
}

/** The error in a line, with what cures it here: a router cannot know where this program's key comes from. */
const said = (error: unknown): string =>
  `${messageOf(error)}${(error as { code?: unknown } | null)?.code === "unauthorized" ? "; set LLMPOOL_API_KEY" : ""}`;

/** Whether this command line runs until it is told to end. */
export function serves(args: readonly string[]): boolean {
  return COMMANDS[calledName(args) ?? ""]?.serves ?? false;
}

function calledName(args: readonly string[]): string | undefined {
  const words = args.filter((arg) => !arg.startsWith("-"));
  return words[0] === "help" ? words[1] : words[0];
}

/** Loads the command that is called; of the others only the name and the description are known. */
async function registerCalled(program: Command, args: readonly string[], io: CliIo): Promise<void> {
  const called = calledName(args);
  for (const [name, { description, load }] of Object.entries(COMMANDS)) {
    if (name === called) (await load())(program, io);
    else program.command(name).description(description);
  }
}

import { Readable } from "node:stream";
import { onTestFinished } from "vitest";
import type { CliIo, Terminal } from "../../src/cli/io.ts";
import { runCli } from "../../src/cli/program.ts";
import { tempDir } from "./temp-dir.ts";

export interface Said {
  out: string;
  err: string;
  code: number;
}

export interface CliWorld {
  env?: Record<string, string>;
  cwd?: string;
  /** What is piped in. */
  stdin?: string;
  /** A person at a terminal: the screen and the keys. */
  screen?: { terminal: Terminal; keys: Readable };
  signal?: AbortSignal;
  /** Receives what is said, as it is said. */
  said?: Said;
}

/** Runs one command line as the main does, in a folder and an environment of its own, and returns what it said. */
export async function cli(args: string[], world: CliWorld = {}): Promise<Said> {
  const said = world.said ?? { out: "", err: "", code: 0 };
  const print = (stream: "out" | "err") => (text: string) => {
    said[stream] += text;
    world.screen?.terminal.write(text);
  };
  const stream = world.screen?.keys ?? Readable.from(world.stdin === undefined ? [] : [world.stdin]);
  onTestFinished(() => void stream.destroy());
  const io: CliIo = {
    stdout: print("out"),
    stderr: print("err"),
    env: world.env ?? {},
    cwd: world.cwd ?? (await tempDir()),
    signal: world.signal ?? new AbortController().signal,
    stdin: { stream, terminal: world.screen !== undefined },
    ...(world.screen && { terminal: world.screen.terminal }),
    setExitCode: (code) => {
      said.code = code;
    },
  };
  await runCli(args, io, "1.2.3");
  return said;
}

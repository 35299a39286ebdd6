import type { Readable } from "node:stream";

/** What a command may touch of its process; only the main makes one out of the real process. */
export interface CliIo {
  /** A command's result. The text brings its own line ends. */
  stdout(text: string): void;
  /** Progress, warnings and errors. */
  stderr(text: string): void;
  env: Readonly<Record<string, string | undefined>>;
  /** What relative paths start from. */
  cwd: string;
  /** Called as `kubectl llmpool`: a cluster is meant, and not this machine. */
  kubectl?: boolean;
  /** Aborted by Ctrl-C and SIGTERM. */
  signal: AbortSignal;
  /** Aborted by a second Ctrl-C: whoever waits for a good end stops waiting. */
  hurry?: AbortSignal;
  /** Standard output, when it is a terminal. */
  terminal?: Terminal;
  /** Standard input; `terminal` when a person types there. */
  stdin?: { stream: Readable; terminal: boolean };
  /** 0 done, 1 failed, 2 wrong usage. The process ends by itself once the command has. */
  setExitCode(code: 0 | 1 | 2): void;
}

/** A screen that can be drawn on. */
export interface Terminal {
  write(text: string): void;
  columns(): number;
  rows(): number;
  /** The returned function ends it. */
  onResize(listener: () => void): () => void;
  /** False with NO_COLOR. */
  color: boolean;
}

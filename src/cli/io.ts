/** What a command may touch of its process; only the main makes one out of the real process. */
export interface CliIo {
  /** A command's result. The text brings its own line ends. */
  stdout(text: string): void;
  /** Progress, warnings and errors. */
  stderr(text: string): void;
  env: Readonly<Record<string, string | undefined>>;
  /** What relative paths start from. */
  cwd: string;
  /** Aborted by Ctrl-C and SIGTERM. */
  signal: AbortSignal;
  /** 0 done, 1 failed, 2 wrong usage. The process ends by itself once the command has. */
  setExitCode(code: 0 | 1 | 2): void;
}

import { spawn } from "node:child_process";

export interface CommandOptions {
  input?: string | undefined;
  cwd?: string | undefined;
  env?: Readonly<Record<string, string | undefined>> | undefined;
  signal?: AbortSignal | undefined;
}

/** A command that ended with another code than 0. `stderr` is what it said of it. */
export class CommandError extends Error {
  readonly code: number | null;
  readonly stderr: string;
  constructor(file: string, args: readonly string[], code: number | null, stderr: string) {
    super(
      `${[file.split("/").at(-1), ...args].join(" ").slice(0, 300)} ended with ${code}: ${stderr.trim().slice(-4000)}`,
    );
    this.name = "CommandError";
    this.code = code;
    this.stderr = stderr;
  }
}

/** What a command printed, when it ended well; throws `CommandError` when it did not. */
export function command(file: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const { input, cwd, env, signal } = options;
    const child = spawn(file, args, {
      ...(cwd !== undefined && { cwd }),
      ...(env !== undefined && { env }),
      ...(signal !== undefined && { signal }),
    });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", reject);
    child.on("close", (code) => (code === 0 ? resolve(stdout) : reject(new CommandError(file, args, code, stderr))));
    child.stdin.on("error", () => {}); // the exit code says it better
    child.stdin.end(input ?? "");
  });
}

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { eventually } from "../support/eventually.ts";

export interface ChildOptions {
  file: string;
  args: readonly string[];
  env?: Record<string, string>;
  /** Core numbers as taskset takes them. */
  cores?: string | undefined;
  /** Ends the process. */
  signal: AbortSignal;
  /** Hears all that it says. */
  onOutput?: (text: string) => void;
}

/** Kept of a child's output, for the message when it fails. */
const OUTPUT_CHARS = 4_000;
/** A child that was asked to end has this long, in milliseconds. */
const END_MS = 5_000;
/** Those that run: whatever ends this process ends them. */
const running = new Set<Child>();
process.on("exit", () => {
  for (const child of running) child.kill();
});

/** A process of a bench. Disposing ends it, and whatever it started with it. */
export class Child implements AsyncDisposable {
  readonly pid: number;
  #output = "";
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;

  constructor({ file, args, env, cores, signal, onOutput }: ChildOptions) {
    const [command, ...rest] = cores === undefined ? [file, ...args] : ["taskset", "-c", cores, file, ...args];
    // A group of its own, so that a wrapper's children end with it; and Ctrl-C reaches it through us alone, in order.
    this.#process = spawn(command ?? file, rest, {
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    this.#exited = once(this.#process, "exit").catch(() => {});
    this.pid = this.#process.pid ?? 0;
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        const text = chunk.toString();
        onOutput?.(text);
        this.#output = (this.#output + text).slice(-OUTPUT_CHARS);
      });
    }
    running.add(this);
    void this.#exited.then(() => running.delete(this));
    signal.addEventListener("abort", () => this.kill(), { once: true });
  }

  get output(): string {
    return this.#output;
  }
  get running(): boolean {
    return this.pid !== 0 && this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** Resolves when `url` answers 200. Rejects with what the process said when it ends instead. */
  async answers(url: string): Promise<void> {
    await eventually(
      `200 from ${url}`,
      async () => {
        if (!this.running) return true;
        const response = await fetch(url);
        await response.body?.cancel();
        return response.ok;
      },
      30_000,
    );
    if (!this.running) throw new Error(`the process ended at its start: ${this.#output.trim().slice(-500)}`);
  }

  /** Waits until it ends by itself; `output` is complete then. */
  async ended(): Promise<void> {
    if (this.running) await once(this.#process, "close");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.running) return;
    this.kill("SIGTERM");
    const timer = setTimeout(() => this.kill(), END_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  kill(signal: NodeJS.Signals = "SIGKILL"): void {
    if (!this.running) return;
    try {
      process.kill(-this.pid, signal);
    } catch {
      // It ended in this very moment.
    }
  }
}

/** A port of the loopback address that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

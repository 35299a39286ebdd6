import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { eventually } from "./eventually.ts";

const SCRIPT = fileURLToPath(new URL("./operator-child.ts", import.meta.url));

export interface ChildOptions {
  /** Of the API server, or of a proxy in front of it. */
  server: string;
  token: string;
  /** Whose pools it looks after, and where its Lease is. */
  namespace: string;
  identity: string;
  version: string;
  level: "info" | "warn" | "silent";
}

/** An operator in a process of its own. */
export class OperatorProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #port = Promise.withResolvers<number>();
  readonly #synced = Promise.withResolvers<void>();
  #said = "";
  #ended = false;

  constructor(options: Pick<ChildOptions, "server" | "token" | "namespace"> & Partial<ChildOptions>) {
    const all = { identity: `test-${Math.random()}`, version: "0.0.0-test", level: "warn", ...options };
    this.#child = spawn(process.execPath, [SCRIPT, JSON.stringify(all)], { stdio: ["ignore", "pipe", "pipe", "ipc"] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#said += text;
      });
    this.#exited = once(this.#child, "exit").then(() => {
      this.#ended = true;
    });
    this.#child.on("message", (message: { port?: number; synced?: true }) => {
      if (message.port !== undefined) this.#port.resolve(message.port);
      if (message.synced) this.#synced.resolve();
    });
  }

  /** Its caches are complete; it may still wait for its Lease. */
  async whenSynced(): Promise<void> {
    await Promise.race([this.#synced.promise, this.#exited]);
    if (this.#ended) throw new Error(`the operator ended:\n${this.said}`);
  }

  async whenLeading(): Promise<void> {
    await eventually("it leads", async () => {
      if (this.#ended) throw new Error(`the operator ended:\n${this.said}`);
      return (await this.metric("leader_election_master_status")) === 1;
    });
  }

  /** What it logged and what it died of. */
  get said(): string {
    return this.#said;
  }

  /** Undefined while it runs; a signal counts as -1. */
  get exitCode(): number | undefined {
    const { exitCode, signalCode } = this.#child;
    return exitCode ?? (signalCode === null ? undefined : -1);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.#exited;
  }

  /** Asks it to end, and waits until it has. */
  async stop(): Promise<void> {
    this.signal("SIGTERM");
    await this.#exited;
  }

  async whenExited(): Promise<number | undefined> {
    await this.#exited;
    return this.exitCode;
  }

  /** What a kubelet would be told: whether its caches are complete. */
  async isReady(): Promise<boolean> {
    return (await this.#ask("/readyz")).ok;
  }

  /** A metric's sum over its labels. */
  async metric(name: string): Promise<number> {
    const text = await (await this.#ask("/metrics")).text();
    return [...text.matchAll(new RegExp(`^${name}(?:{[^}]*})? (\\S+)$`, "gm"))].reduce(
      (sum, [, n]) => sum + Number(n),
      0,
    );
  }

  async #ask(path: string): Promise<Response> {
    return fetch(`http://127.0.0.1:${await this.#port.promise}${path}`);
  }

  /** Makes it look again by `nudge`, and waits until it has. */
  async looks(nudge: () => Promise<unknown>): Promise<void> {
    const before = await this.metric("controller_runtime_reconcile_total");
    await nudge();
    await eventually("the operator looks again", async () => {
      if (this.#ended) return true;
      return (await this.metric("controller_runtime_reconcile_total")) > before;
    });
    if (this.#ended) throw new Error("the operator ended");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

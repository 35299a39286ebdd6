import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { FromChild, Serving } from "./child.ts";

type Kind = "router" | "instance";

/** A child process of one of the two kinds. */
export class Child {
  readonly #process: ChildProcess;
  readonly #kind: Kind;
  readonly #said: FromChild[] = [];
  #hear: (() => void) | undefined;
  #log = "";

  constructor(kind: Kind) {
    this.#kind = kind;
    const main = fileURLToPath(new URL(`./${kind}-child.ts`, import.meta.url));
    this.#process = spawn(process.execPath, [main], { stdio: ["ignore", "ignore", "pipe", "ipc"] });
    this.#process.on("message", (message: FromChild) => {
      this.#said.push(message);
      this.#hear?.();
    });
    this.#process.on("exit", () => this.#hear?.());
    this.#process.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#log = (this.#log + text).slice(-100_000);
    });
  }

  get kind(): Kind {
    return this.#kind;
  }

  get alive(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** What it has logged lately. */
  get log(): string {
    return this.#log;
  }

  /** Resolves when it serves; rejects with what it says, or with its log when it ends. */
  async begin(config: object): Promise<Serving> {
    await this.#next();
    this.#process.send({ begin: config });
    const answer = await this.#next();
    if (typeof answer === "object" && "serving" in answer) return answer.serving;
    throw new Error(`the ${this.#kind} did not begin: ${JSON.stringify(answer)}`);
  }

  tell(what: object): void {
    if (this.alive && this.#process.connected) this.#process.send({ tell: what });
  }

  /** It closes what it has, and can begin again. */
  async end(): Promise<void> {
    this.#process.send("end");
    const answer = await this.#next();
    if (answer !== "idle") throw new Error(`the ${this.#kind} did not end: ${JSON.stringify(answer)}`);
    this.#said.push("idle");
    this.#log = "";
  }

  /** Stops every thread of it for a while, as a machine does that is out of breath. */
  pause(): void {
    this.#process.kill("SIGSTOP");
  }

  resume(): void {
    this.#process.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    if (!this.alive) return;
    const exit = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await exit;
  }

  async #next(): Promise<FromChild> {
    for (;;) {
      const message = this.#said.shift();
      if (message !== undefined) return message;
      if (!this.alive) throw new Error(`the ${this.#kind} has ended:\n${this.#log.slice(-4_000)}`);
      await new Promise<void>((resolve) => {
        this.#hear = resolve;
      });
    }
  }
}

/** Children that wait to begin. Starting one takes a second of a processor, so there is always one in reserve, and those that ended well come back. */
export class Nursery implements AsyncDisposable {
  readonly #idle: Record<Kind, Child[]> = { router: [], instance: [] };
  readonly #all = new Set<Child>();
  readonly #worlds = new Set<AsyncDisposable>();

  /** One that is ready, or nearly. */
  take(kind: Kind): Child {
    const child = this.#idle[kind].find(({ alive }) => alive) ?? this.#spawn(kind);
    this.#idle[kind] = this.#idle[kind].filter((other) => other !== child);
    if (this.#idle[kind].length === 0) this.#idle[kind].push(this.#spawn(kind));
    return child;
  }

  /** It is killed when it cannot end by itself. */
  async giveBack(child: Child): Promise<void> {
    if (!child.alive) return void this.#all.delete(child);
    try {
      await child.end();
      this.#idle[child.kind].push(child);
    } catch {
      await child.kill();
    }
  }

  /** Closes this too at the end, if nobody has: a run that hangs leaves nothing behind. */
  adopt(world: AsyncDisposable): void {
    this.#worlds.add(world);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#all].map((child) => child.kill()));
    await Promise.allSettled([...this.#worlds].map((world) => world[Symbol.asyncDispose]()));
  }

  #spawn(kind: Kind): Child {
    const child = new Child(kind);
    this.#all.add(child);
    return child;
  }
}

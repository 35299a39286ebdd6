import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import type { Line } from "./store-child.ts";

const SCRIPT = fileURLToPath(new URL("./store-child.ts", import.meta.url));

/** Runs store-child.ts; killed when it is disposed of, or when the test ends in any other way. */
export class StoreProcess implements AsyncDisposable {
  readonly lines: Line[] = [];
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  #wake: () => void = () => {};

  constructor(...args: string[]) {
    this.#child = spawn(process.execPath, [SCRIPT, ...args], { stdio: ["pipe", "pipe", "inherit"] });
    onTestFinished(() => this.kill());
    this.#ended = once(this.#child, "close");
    if (!this.#child.stdout) throw new Error("no standard output");
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      this.lines.push(JSON.parse(line) as Line);
      this.#wake();
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Resolves when it has written so many lines. */
  async written(count: number): Promise<void> {
    while (this.lines.length < count) {
      const next = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const ended = this.#ended.then(() => {
        if (this.lines.length < count) throw new Error(`ended after ${this.lines.length} lines`);
      });
      await Promise.race([next, ended]);
    }
  }

  /** Resolves when it has ended and all it wrote is here. */
  async end(): Promise<void> {
    await this.#ended;
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

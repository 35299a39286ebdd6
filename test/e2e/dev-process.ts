import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readRunFile } from "../../src/dev/run-file.ts";
import { eventually } from "../support/eventually.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));

/** `llmpool dev` as a user starts it: a process of its own, in a folder of its own. */
export class DevProcess implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly dir: string;
  output = "";

  private constructor(child: ChildProcess, dir: string) {
    this.child = child;
    this.dir = dir;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        this.output += chunk.toString();
      });
    }
  }

  /** Started with this file, and every instance ready. */
  static async ready(yaml: string, env: Record<string, string> = {}): Promise<DevProcess> {
    const dir = await mkdtemp(join(tmpdir(), "llmpool-e2e-"));
    await writeFile(join(dir, "pool.yaml"), yaml);
    const args = [MAIN, "dev", "-f", "pool.yaml", "--port", "0", "--state", "state"];
    const stdio = ["ignore", "pipe", "pipe"] as const;
    const one = new DevProcess(
      spawn(process.execPath, args, { cwd: dir, stdio: [...stdio], env: { ...process.env, ...env } }),
      dir,
    );
    try {
      await eventually(
        "the pool is ready",
        async () => one.child.exitCode !== null || (one.url !== "" && (await fetch(`${one.url}/readyz`)).ok),
        300_000,
      );
      if (one.child.exitCode !== null) throw new Error(`it ended with ${one.child.exitCode}`);
      return one;
    } catch (error) {
      await one.stop();
      throw new Error(`llmpool dev did not get ready:\n${one.output}`, { cause: error });
    }
  }

  get stateDir(): string {
    return join(this.dir, "state");
  }

  get url(): string {
    return readRunFile(this.stateDir)?.url ?? "";
  }

  /** Runs another command of the command line against it. */
  async llmpool(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const child = spawn(process.execPath, [MAIN, ...args], {
      cwd: this.dir,
      env: { ...process.env, LLMPOOL_URL: this.url },
    });
    const out = { stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => (out.stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (out.stderr += chunk.toString()));
    child.stdin.end();
    const [code] = (await once(child, "close")) as [number | null];
    return { code, ...out };
  }

  /** Ends it as Ctrl-C does, and removes its folder. */
  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const gone = once(this.child, "exit");
      this.child.kill("SIGINT");
      await gone;
    }
    await rm(this.dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

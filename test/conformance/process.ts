import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { InstanceConfig, InstanceMessage, SupervisorMessage } from "../../src/api/instance.ts";
import { eventually } from "../support/eventually.ts";

const MAIN = fileURLToPath(new URL("../../runtime-image/main.ts", import.meta.url));
/** What runs an instance of LLMPool's own Node program. */
const NODE: Program = { command: [process.execPath, MAIN], env: {} };
export const TOKEN = "token-of-the-test-pool";

/** Another program that serves one instance. */
export interface Program {
  command: readonly [string, ...string[]];
  env: Readonly<Record<string, string>>;
}

/** One real instance process with a folder of its own. */
export class InstanceProcess implements AsyncDisposable {
  readonly child: ChildProcess;
  /** Everything it has reported so far. */
  readonly messages: InstanceMessage[] = [];
  readonly token = TOKEN;
  readonly dir: string;
  stderr = "";
  url = "";
  metricsUrl = "";

  private constructor(child: ChildProcess, dir: string) {
    this.child = child;
    this.dir = dir;
    child.on("message", (message) => this.messages.push(message as InstanceMessage));
    child.stderr?.on("data", (chunk) => {
      this.stderr += chunk;
    });
  }

  /** Starts it; it may not listen yet. */
  static async spawn(change: Partial<InstanceConfig> = {}, program = NODE): Promise<InstanceProcess> {
    const dir = await mkdtemp(join(tmpdir(), "llmpool-instance-"));
    await writeFile(join(dir, "token"), TOKEN);
    const config = { ...defaults(dir), ...change };
    const [file, ...args] = program.command;
    const child = spawn(file, args, {
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      env: { ...process.env, ...program.env, LLMPOOL_INSTANCE: JSON.stringify(config), UV_THREADPOOL_SIZE: "8" },
    });
    return new InstanceProcess(child, dir);
  }

  /** Started and listening; perhaps not ready. */
  static async listening(change: Partial<InstanceConfig> = {}, program = NODE): Promise<InstanceProcess> {
    const instance = await InstanceProcess.spawn(change, program);
    try {
      const listening = await eventually("the instance listens", () => instance.heard("listening"));
      instance.url = `http://127.0.0.1:${listening.port}`;
      instance.metricsUrl = `http://127.0.0.1:${listening.metricsPort}/metrics`;
      return instance;
    } catch (error) {
      await instance.stop();
      throw new Error(`the instance did not start: ${instance.stderr}`, { cause: error });
    }
  }

  static async ready(change: Partial<InstanceConfig> = {}, program = NODE): Promise<InstanceProcess> {
    const instance = await InstanceProcess.listening(change, program);
    try {
      await eventually("the instance is ready", () => instance.heard("ready"));
      return instance;
    } catch (error) {
      await instance.stop();
      throw new Error(`the instance did not become ready: ${instance.stderr}`, { cause: error });
    }
  }

  /** The first message of a kind. Throws once the process is gone without it. */
  heard<T extends InstanceMessage["type"]>(type: T): Extract<InstanceMessage, { type: T }> | undefined {
    const message = this.messages.find((m) => m.type === type);
    return message as Extract<InstanceMessage, { type: T }> | undefined;
  }

  say(message: SupervisorMessage): void {
    this.child.send(message);
  }

  /** How the process ends. */
  async exit(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, "exit");
    return { code: this.child.exitCode, signal: this.child.signalCode };
  }

  /** Kills what still runs and removes the folder. */
  async stop(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exit();
    await rm(this.dir, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

function defaults(dir: string): InstanceConfig {
  return {
    pool: "test",
    id: "0",
    variant: "default",
    backend: "stub",
    host: "127.0.0.1",
    port: 0,
    metricsPort: 0,
    tokenFile: join(dir, "token"),
    cacheDir: join(dir, "cache"),
    stateDir: join(dir, "state"),
    contextTokens: 512,
    sessions: 2,
    requestTimeoutSeconds: 120,
    sessionTTLSeconds: 600,
    warmupPrompt: "test",
    stub: { ttftMs: 0, interTokenMs: 0, replyTokens: 16, errorRate: 0 },
  };
}

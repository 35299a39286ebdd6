import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { Certificates } from "../../scripts/cluster/certificates.ts";
import { eventually } from "./eventually.ts";

const PROGRAM = "redis-server";

/** Whether there is a redis-server, or can be: as root on Debian it is installed, once. Where this is false, tests name the cure. */
export const hasRedis = isThere() || install();
export const REDIS_CURE = `needs ${PROGRAM}: apt-get install -y ${PROGRAM}`;

function isThere(): boolean {
  return (process.env.PATH ?? "").split(delimiter).some((dir) => existsSync(join(dir, PROGRAM)));
}

function install(): boolean {
  if (process.getuid?.() !== 0) return false;
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  for (const command of [["install"], ["update"], ["install"]]) {
    try {
      const args = command[0] === "update" ? ["update", "-q"] : ["install", "-y", "-q", PROGRAM];
      execFileSync("apt-get", args, { env, stdio: "ignore", timeout: 120_000 });
    } catch {
      // No apt-get, or no such package yet.
    }
    if (isThere()) return true;
  }
  return false;
}

/** A real redis-server on a free loopback port, with a folder of its own; every write is on disk before it is answered. */
export class RedisServer implements AsyncDisposable {
  readonly port: number;
  readonly #dir: string;
  readonly #flags: string[];
  #child: ChildProcess | undefined;

  private constructor(port: number, dir: string, flags: string[]) {
    this.port = port;
    this.#dir = dir;
    this.#flags = flags;
  }

  /** `flags` come last: `--appendonly no` makes a volatile one. */
  static async start(...flags: string[]): Promise<RedisServer> {
    const dir = await mkdtemp(join(tmpdir(), "llmpool-redis-"));
    const server = new RedisServer(await freePort(), dir, flags);
    await server.start();
    return server;
  }

  /** Of the process that runs now. */
  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Speaks TLS alone, to clients that trust `ca.crt` and show a certificate of it; `user.crt` is one. */
  static async startTls(
    stack: AsyncDisposableStack,
    ...flags: string[]
  ): Promise<{ url: string; certs: Certificates }> {
    const dir = await mkdtemp(join(tmpdir(), "llmpool-redis-tls-"));
    stack.defer(() => rm(dir, { recursive: true, force: true }));
    const certs = await Certificates.create(dir);
    await certs.issue("server", { cn: "redis", names: ["IP:127.0.0.1"] });
    await certs.issue("user", { cn: "router" });
    const file = (name: string) => certs.file(name);
    const tls = ["--tls-cert-file", file("server.crt"), "--tls-key-file", file("server.key")];
    const port = await freePort();
    const flagsOfTls = ["--port", "0", "--tls-port", String(port), ...tls, "--tls-ca-cert-file", file("ca.crt")];
    stack.use(await RedisServer.start(...flagsOfTls, ...flags));
    return { url: `rediss://127.0.0.1:${port}`, certs };
  }

  /** The file that every change is appended to. */
  get appendOnlyFile(): string {
    return join(this.#dir, "appendonlydir", "appendonly.aof.1.incr.aof");
  }

  /** Two nodes of one cluster, each with half of the slots. */
  static async startCluster(stack: AsyncDisposableStack): Promise<[RedisServer, RedisServer]> {
    const start = async () => stack.use(await RedisServer.start("--cluster-enabled", "yes"));
    const [one, two] = [await start(), await start()];
    one.cli("cluster", "addslotsrange", "0", "8191");
    two.cli("cluster", "addslotsrange", "8192", "16383");
    // Two nodes that begin at the same epoch would quarrel.
    two.cli("cluster", "set-config-epoch", "2");
    one.cli("cluster", "meet", "127.0.0.1", String(two.port));
    await eventually("both know all slots", () =>
      [one, two].every((node) =>
        /cluster_state:ok[\s\S]*cluster_slots_assigned:16384/.test(node.cli("cluster", "info")),
      ),
    );
    return [one, two];
  }

  /** Runs redis-cli against it. */
  cli(...args: string[]): string {
    return execFileSync("redis-cli", ["-p", String(this.port), ...args], { encoding: "utf8" });
  }

  /** What clients ask from now on, each as the server writes it down; not what scripts do inside. */
  async monitor(): Promise<{ commands: string[] } & AsyncDisposable> {
    const child = spawn("redis-cli", ["-p", String(this.port), "MONITOR"], { stdio: ["ignore", "pipe", "ignore"] });
    const exit = once(child, "exit");
    const commands: string[] = [];
    let rest = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      commands.push(...lines.filter((line) => !/^[\d.]+ \[\d+ lua\]/.test(line)));
    });
    await eventually("the monitor has begun", () => commands.includes("OK"));
    return {
      commands,
      async [Symbol.asyncDispose]() {
        child.kill();
        await exit;
      },
    };
  }

  /** Again, over what it left on disk. */
  async start(): Promise<void> {
    const child = spawn(
      PROGRAM,
      [
        ...["--bind", "127.0.0.1", "--port", String(this.port), "--dir", this.#dir, "--save", ""],
        ...["--appendonly", "yes", "--appendfsync", "always", ...this.#flags],
      ],
      { stdio: ["ignore", "pipe", "ignore"] },
    );
    this.#child = child;
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    await eventually("redis-server is ready", () => {
      if (child.exitCode !== null) throw new Error(output);
      return output.includes("Ready to accept connections");
    });
  }

  /** Keeps a copy of what is on disk now; the returned function, called while it does not run, puts it back: a copy that lags takes over. */
  async copy(): Promise<() => Promise<void>> {
    const copy = `${this.#dir}-copy`;
    await cp(this.#dir, copy, { recursive: true });
    return async () => {
      await rm(this.#dir, { recursive: true });
      await cp(copy, this.#dir, { recursive: true });
    };
  }

  /** It answers nobody, and keeps its connections. */
  pause(): void {
    this.#child?.kill("SIGSTOP");
  }

  resume(): void {
    this.#child?.kill("SIGCONT");
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, "exit");
    child.kill(signal);
    // One that is stopped hears nothing but this.
    child.kill("SIGCONT");
    await exit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
    for (const dir of [this.#dir, `${this.#dir}-copy`]) await rm(dir, { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, "close");
  return port;
}

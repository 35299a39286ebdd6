import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { TokenCheck } from "../../runtime-image/server/auth.ts";
import { InstanceServer } from "../../runtime-image/server/server.ts";
import { createBackend } from "../../runtime-image/stub/backend.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import type { TestCluster } from "./cluster.ts";
import { tempDir } from "./temp-dir.ts";

/** What the warm-up of such an instance is said to have shown. */
export const WARMUP = { seconds: 1.234, tokensPerSecond: 61.7 };

/** Real stub instances of this process behind pods of fake nodes: each pod's address becomes one of this machine, where an instance serves on port 8000. */
export class PodInstances {
  readonly #cluster: TestCluster;
  readonly #namespace: string;
  readonly #dir: string;
  readonly #free: string[];

  private constructor(cluster: TestCluster, namespace: string, dir: string, addresses: string[]) {
    this.#cluster = cluster;
    this.#namespace = namespace;
    this.#dir = dir;
    this.#free = addresses;
  }

  /** For at most `count` of them. Needs a real node, with whose network these addresses come and go. */
  static async with(cluster: TestCluster, namespace: string, token: string, count: number): Promise<PodInstances> {
    const dir = await tempDir();
    await writeFile(join(dir, "token"), token);
    return new PodInstances(cluster, namespace, dir, await cluster.addAddresses(count));
  }

  /** File with the pool's token. */
  get tokenFile(): string {
    return join(this.#dir, "token");
  }

  /** Serves as this pod's instance, until the test ends. Resolves with its URL. */
  async serve(pod: string, id: string): Promise<string> {
    const ip = this.#free.shift();
    if (ip === undefined) throw new Error("there are no more addresses");
    const server = new InstanceServer({
      id,
      sessions: 2,
      requestTimeoutMs: 60_000,
      tokens: await TokenCheck.load(this.tokenFile),
      clock: systemClock,
      log: silentLogger,
    });
    onTestFinished(() => server.close());
    const stub = { ttftMs: 0, interTokenMs: 0, replyTokens: 4, errorRate: 0 };
    const config = { contextTokens: 4096, sessions: 2, sessionTTLSeconds: 600, stateDir: this.#dir, stub };
    await server.listen(ip, 8000);
    server.warmedUp(WARMUP);
    server.become("Ready", await createBackend(config, { clock: systemClock }));
    const patch = JSON.stringify({ status: { podIP: ip, podIPs: [{ ip }] } });
    const args = ["patch", "pod", pod, "--namespace", this.#namespace, "--subresource=status"];
    // A list keyed by its values: a merge would keep the old address beside.
    await this.#cluster.kubectl([...args, "--type=merge", "--patch", patch]);
    return `http://${ip}:8000`;
  }
}

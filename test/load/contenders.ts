import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { BenchContext } from "./bench.ts";
import { Child, freePort } from "./child.ts";
import { plainProxy, startNginx } from "./nginx.ts";
import { startPoolRouter } from "./pool.ts";
import { findPeer, type Peer, peerName } from "./tools.ts";

/** A router that can be put under load. */
export interface Contender {
  name: string;
  /** Until it is as fast as it gets: a compiler that works at run time needs many calls. */
  warmupSeconds: number;
  /** Resolves once it answers. */
  start(at: Place): Promise<Running>;
}

interface Running {
  url: string;
  child: Child;
}

export interface Place {
  context: BenchContext;
  /** Instances, as ports of the loopback address. */
  instances: readonly number[];
  cores: string | undefined;
}

export const LLMPOOL = "llmpool router";
export const NGINX = "nginx";
/** A folder for the CPU profile of our router, which is read with any tool that reads V8's. It costs CPU itself. */
const PROFILE = process.env.LLMPOOL_BENCH_PROFILE;

/** All that can be compared; `nginx` is the path of its program. */
export function contenders(nginx: string | undefined): Contender[] {
  return [
    { name: NGINX, warmupSeconds: 1, start: (at) => startPlainNginx(nginx, at) },
    { name: "bare node:http + undici", warmupSeconds: 5, start: startBare },
    { name: LLMPOOL, warmupSeconds: 10, start: startRouter },
    { name: peerName("vllm-router"), warmupSeconds: 1, start: (at) => startPeer("vllm-router", at) },
    { name: peerName("smg"), warmupSeconds: 1, start: (at) => startPeer("smg", at) },
  ];
}

async function startPlainNginx(nginx: string | undefined, { context, instances, cores }: Place): Promise<Running> {
  if (!nginx) throw new Error("not installed: apt-get install nginx-light");
  const port = await freePort();
  const { dir, signal } = context;
  const http = plainProxy(port, instances[0] ?? 0);
  const child = await startNginx({ nginx, dir, name: "proxy", http, cores, signal });
  return ready(child, port, "/healthz");
}

async function startBare({ context, instances, cores }: Place): Promise<Running> {
  const port = await freePort();
  const main = fileURLToPath(new URL("./bare-proxy-main.ts", import.meta.url));
  const args = [main, String(port), `http://127.0.0.1:${instances[0]}`];
  const child = new Child({ file: process.execPath, args, cores, signal: context.signal });
  return ready(child, port, "/healthz");
}

async function startRouter({ context, instances, cores }: Place): Promise<Running> {
  const port = await freePort();
  const flags = PROFILE ? ["--cpu-prof", "--cpu-prof-dir", PROFILE] : [];
  const dir = join(context.dir, "router");
  const child = await startPoolRouter({ dir, port, instances, flags, cores, signal: context.signal });
  return ready(child, port, "/readyz");
}

/** Each with the policy that keeps a session on its instance, and without a line of log per request. */
async function startPeer(peer: Peer, { context, instances, cores }: Place): Promise<Running> {
  const file = await findPeer(peer, context.say);
  const [port, metricsPort] = [await freePort(), await freePort()];
  const urls = instances.map((at) => `http://127.0.0.1:${at}`);
  const common = ["--host", "127.0.0.1", "--port", String(port), "--worker-urls", ...urls];
  const metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", String(metricsPort)];
  const own =
    peer === "smg"
      ? ["launch", ...common, "--policy", "manual", "--log-level", "warn"]
      : [...common, "--policy", "consistent_hash", "--log-level", "warning"];
  const env = { RUST_LOG: "warn" };
  const child = new Child({ file, args: [...own, ...metrics], env, cores, signal: context.signal });
  return ready(child, port, "/health");
}

async function ready(child: Child, port: number, path: string): Promise<Running> {
  const url = `http://127.0.0.1:${port}`;
  try {
    await child.answers(url + path);
    return { url, child };
  } catch (error) {
    await child[Symbol.asyncDispose]();
    throw error;
  }
}

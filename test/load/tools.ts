import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { defaultCacheDir } from "../../src/models/cache-dir.ts";

const run = promisify(execFile);

/** Programs of the operating system that the benches use. */
export interface Programs {
  nginx: string | undefined;
  wrk: string | undefined;
  /** What is missing and how to get it; empty when all is there. */
  missing: string[];
}

const PACKAGES = { nginx: "nginx-light", wrk: "wrk" };

/** Finds those that are needed; installs them where that is allowed and harmless. */
export async function findPrograms(
  say: (line: string) => void,
  needed: readonly (keyof typeof PACKAGES)[] = ["nginx", "wrk"],
): Promise<Programs> {
  // Where a service manager runs, the nginx package would start a web server that nobody asked for.
  const mayInstall = process.getuid?.() === 0 && which("apt-get") && !existsSync("/run/systemd/system");
  const packages = needed.filter((name) => which(name) === undefined).map((name) => PACKAGES[name]);
  if (mayInstall && packages.length > 0) {
    say(`installing ${packages.join(" and ")} ...`);
    const apt = (...args: string[]) =>
      run("apt-get", ["-qq", ...args], { env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" } });
    await apt("update").catch(() => {});
    await apt("install", "-y", "--no-install-recommends", ...packages).catch(() => {});
  }
  const found = { nginx: which("nginx"), wrk: which("wrk") };
  const missing = Object.entries(found)
    .filter(([, path]) => path === undefined)
    .map(([name]) => `${name} is missing: apt-get install ${PACKAGES[name as keyof typeof PACKAGES]}`);
  return { ...found, missing };
}

/** Routers that others made, on PyPI. Pinned: figures of different versions are not one comparison. */
const PEERS = { "vllm-router": "0.1.17", smg: "1.13.0" } as const;
export type Peer = keyof typeof PEERS;

export const peerName = (peer: Peer): string => `${peer} ${PEERS[peer]}`;
export const PEER_NAMES: readonly string[] = (Object.keys(PEERS) as Peer[]).map(peerName);

/** Path of the router's program, installed once into a virtual environment in the user's cache folder. Rejects with the reason. */
export async function findPeer(peer: Peer, say: (line: string) => void): Promise<string> {
  const cache = dirname(defaultCacheDir(process.env, process.platform, homedir()));
  const venv = join(cache, "bench", `${peer}-${PEERS[peer]}`);
  const program = join(venv, "bin", peer);
  if (existsSync(program)) return program;
  say(`installing ${peerName(peer)} into ${venv} ...`);
  try {
    await mkdir(dirname(venv), { recursive: true });
    await run("python3", ["-m", "venv", venv]);
    await run(join(venv, "bin", "pip"), ["install", "--quiet", `${peer}==${PEERS[peer]}`]);
    return program;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new Error(`not available: ${text.trim().split("\n").at(-1)?.slice(0, 100)}`, { cause });
  }
}

function which(name: string): string | undefined {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { API_VERSION, DEFAULT_ROLES, KIND } from "../../src/api/names.ts";
import { ROUTER_ENV } from "../../src/core/process-env.ts";
import { Child } from "./child.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
/** A limit that is counted on every request and never reached. */
const PLENTY = 2_000_000_000;

const PLENTIFUL = {
  episodeTokens: PLENTY,
  poolTokensPerDay: PLENTY,
  roleTokens: Object.fromEntries(DEFAULT_ROLES.map((role) => [role, PLENTY])),
};

export interface RouterOptions {
  dir: string;
  port: number;
  /** Ports of the instances on the loopback address. */
  instances: readonly number[];
  /** Flags of Node. */
  flags: readonly string[];
  cores: string | undefined;
  signal: AbortSignal;
  /** Of its Redis; absent: its own folder is the store. */
  redis?: string | undefined;
  /** Instead of limits on everything. */
  budgets?: object;
  onOutput?: (text: string) => void;
}

/** `llmpool router` with all that it can count, in front of instances that something else runs. */
export async function startPoolRouter(options: RouterOptions): Promise<Child> {
  const { dir, port, instances, flags, cores, signal, redis, budgets = PLENTIFUL, onOutput } = options;
  await mkdir(dir);
  const pool = {
    apiVersion: API_VERSION,
    kind: KIND,
    metadata: { name: "bench" },
    spec: {
      // As with a real model: the router bounds a prompt's tokens; only the stub's it counts.
      backend: "llama-cpp",
      model: { uri: "pypi://stub" },
      instances: instances.length,
      budgets,
      ...(redis !== undefined && { store: { redisSecretRef: { name: "redis", key: "url" } } }),
    },
  };
  const endpoints = instances.map((at, i) => ({ id: String(i), url: `http://127.0.0.1:${at}` }));
  const file = async (name: string, text: string) => {
    await writeFile(join(dir, name), text);
    return join(dir, name);
  };
  // JSON is YAML.
  const args = ["router", "-f", await file("pool.yaml", JSON.stringify(pool))];
  args.push("--endpoints", await file("endpoints.json", JSON.stringify(endpoints)));
  args.push("--token-file", await file("token", "bench"), "--state", join(dir, "state"), "--port", String(port));
  if (redis !== undefined) {
    await file("url", redis);
    args.push("--secret", `redis=${dir}`);
  }
  return new Child({
    file: process.execPath,
    args: [...flags, MAIN, ...args],
    env: ROUTER_ENV,
    cores,
    signal,
    ...(onOutput && { onOutput }),
  });
}

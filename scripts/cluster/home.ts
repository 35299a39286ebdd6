import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultCacheDir } from "../../src/models/cache-dir.ts";

export type Env = Readonly<Record<string, string | undefined>>;

/** Where a test cluster keeps its things. */
export interface Home {
  /** Programs and images: kept, for the next cluster. */
  cache: string;
  /** All that belongs to one running cluster, removed with it. Processes are recognised by this path. */
  run: string;
  /** 0 is the cluster that all tests share. Another number, up to 255, is another cluster beside it, with its own addresses. */
  slot: number;
}

/** The cluster that `LLMPOOL_TEST_CLUSTER` numbers, 0 without it. */
export function clusterHome(env: Env): Home {
  const slot = Number(env.LLMPOOL_TEST_CLUSTER ?? 0);
  if (!(Number.isInteger(slot) && slot >= 0 && slot <= 255))
    throw new Error(`LLMPOOL_TEST_CLUSTER: ${env.LLMPOOL_TEST_CLUSTER}; write a number from 0 to 255`);
  const cache = join(dirname(defaultCacheDir(env, process.platform, homedir())), "cluster");
  return { cache, run: join(cache, `run-${slot}`), slot };
}

/** The Go modules that pin the programs, and the files that the node is made of. */
export const SOURCES = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), "test", "cluster", "go");

/** Addresses of one cluster, private and unlikely to be in use, and the name of its one network interface on this machine. */
export interface Network {
  /** This machine's end of the link: the interface, and the address that pods reach it by. */
  link: string;
  host: string;
  node: string;
  pods: string;
  services: string;
  /** The address of the Service `kubernetes`. */
  api: string;
}

export function networkOf({ slot }: Home): Network {
  // 4,094 Services: a pool takes one address.
  const services = `10.${208 + (slot >> 4)}.${(slot & 15) << 4}`;
  return {
    link: `llmpool${slot}`,
    host: `10.197.${slot}.1`,
    node: `10.197.${slot}.2`,
    pods: `10.199.${slot}.0/24`,
    services: `${services}.0/20`,
    api: `${services}.1`,
  };
}

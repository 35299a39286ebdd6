/**
 * Keeps processes small, of which there are many: without these a llama.cpp instance took 80 MB more at its start and 180 MB more after a
 * few requests, in free lists of glibc's arenas and in V8's young generation. Nothing got slower.
 */
const SMALL = {
  MALLOC_ARENA_MAX: "1",
  MALLOC_TRIM_THRESHOLD_: "131072",
  NODE_OPTIONS: "--max-semi-space-size=4",
};

/** What an instance's process finds in its environment wherever it runs; both are read once, when a process starts. */
export function processEnv(sessions: number): Record<string, string> {
  // Every sequence's decode and sampling step waits in a libuv thread; the rest is for files and DNS.
  return { ...SMALL, UV_THREADPOOL_SIZE: String(Math.max(4, sessions + 4)) };
}

/** The same of a router's process: V8 would let the garbage of a busy minute take 100 MB, and keep them. */
export const ROUTER_ENV = { NODE_OPTIONS: "--max-semi-space-size=16" } as const;

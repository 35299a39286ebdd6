import type { Behaviour } from "./directives.ts";

/** Memory that `leak` took; held for the rest of the process's life. */
const leaked: Buffer[] = [];
const LEAK_STEP_MIB = 16;

/** The faults that strike before the first token: they take memory, or end the process. */
export async function strikeAtStart(behaviour: Behaviour): Promise<void> {
  if (behaviour.exitCode !== undefined) process.exit(behaviour.exitCode);
  for (let taken = 0; taken < (behaviour.leakMiB ?? 0); taken += LEAK_STEP_MIB) {
    // Filled, so that every page is really there; in steps, so that the process answers probes until it is killed.
    leaked.push(Buffer.alloc(LEAK_STEP_MIB * 2 ** 20, 1));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The faults that strike before token `index`. `stall` ends only with the request. */
export async function strikeAtToken(behaviour: Behaviour, index: number, signal: AbortSignal): Promise<void> {
  if (behaviour.crashAt === index) process.kill(process.pid, "SIGKILL");
  if (behaviour.breakAt === index) throw new Error("simulated failure in mid-answer");
  if (behaviour.stallAt === index)
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  if (behaviour.hangAt === index) for (;;);
}

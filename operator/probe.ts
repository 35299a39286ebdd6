import { INSTANCE_STATES, type InstanceState } from "../src/api/instance.ts";
import type { Observed } from "./gather.ts";
import { podState } from "./pod-state.ts";
import { ordinalOf } from "./rollout.ts";

/** What each instance of a Packed pod answered to its probe, by id; absent: it was not reached. */
export type Probed = ReadonlyMap<string, InstanceState>;

/** The state that the instance at `http://10.1.2.3:8000` tells of itself; undefined when it does not answer. Never rejects. */
export type ProbeInstance = (url: string, signal: AbortSignal) => Promise<InstanceState | undefined>;

const PROBE_MS = 2_000;
/** How soon instances are asked again, in milliseconds: while some start, and when all are ready. */
const QUICK_MS = 2_000;
const SLOW_MS = 30_000;

export const httpProbeInstance: ProbeInstance = async (url, signal) => {
  try {
    const answer = await fetch(`${url}/readyz`, { signal: AbortSignal.any([signal, AbortSignal.timeout(PROBE_MS)]) });
    const { state } = (await answer.json()) as { state?: unknown };
    return INSTANCE_STATES.find((known) => known === state);
  } catch {
    return undefined;
  }
};

/** Asks the instances of Packed pods, which their pods' readiness says nothing of. `askAgainMs`: no event tells of a change of theirs. */
export async function probePacked(
  { variants }: Observed,
  probe: ProbeInstance,
  signal: AbortSignal,
): Promise<{ probed: Probed; askAgainMs: number | undefined }> {
  const probed = new Map<string, InstanceState>();
  let askAgainMs: number | undefined;
  const asked = variants.flatMap(({ rendered, pods }) =>
    rendered.packed ? rendered.plan.instances.map((instance) => ({ instance, pods })) : [],
  );
  if (asked.length > 0) askAgainMs = SLOW_MS;
  await Promise.all(
    asked.map(async ({ instance, pods }) => {
      const pod = pods.find((one) => ordinalOf(one) === instance.ordinal);
      const ip = pod?.status?.podIP;
      if (!pod || ip === undefined || podState(pod).state !== "Ready") return;
      const host = ip.includes(":") ? `[${ip}]` : ip;
      const state = await probe(`http://${host}:${instance.port}`, signal);
      if (state !== undefined) probed.set(instance.id, state);
      if (state !== "Ready") askAgainMs = QUICK_MS;
    }),
  );
  return { probed, askAgainMs };
}

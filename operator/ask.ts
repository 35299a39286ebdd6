import { INSTANCE_STATES, type InstanceState, type SupervisedInstance } from "../src/api/instance.ts";

/** What an instance, or its supervisor, told of it. */
export interface Told {
  state: InstanceState;
  device?: string;
  warmupSeconds?: number;
  tokensPerSecond?: number;
  /** Only a supervisor counts them. */
  restarts?: number;
  /** Why it is not Ready. */
  message?: string;
}

/** One address, and whom it speaks for. */
export interface Target {
  /** `http://10.1.2.3:8000/readyz` of an instance, `http://10.1.2.3:8200/healthz` of a supervisor. */
  url: string;
  /** The instance whose readiness it is; undefined: a supervisor, which names them. */
  id: string | undefined;
  /** Another pod at the same address is another target. */
  uid: string;
  /** Whether a kubelet found that what is asked is ready. */
  ready: boolean;
}

/** The JSON of an address; undefined when it does not answer. Never rejects. */
export type Ask = (url: string, signal: AbortSignal) => Promise<unknown>;

const ASK_MS = 2_000;

export const askOverHttp: Ask = async (url, signal) => {
  try {
    const answer = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]) });
    return await answer.json();
  } catch {
    return undefined;
  }
};

/** By instance id. What makes no sense is left out: the pod may run an image that is not ours. */
export function readTold(answer: unknown, { id }: Target): Map<string, Told> {
  if (!isObject(answer)) return new Map();
  const rows: unknown[] =
    id === undefined ? (Array.isArray(answer.instances) ? answer.instances : []) : [{ ...answer, id }];
  return new Map(
    rows.flatMap((row) => {
      const told = toldIn(row);
      return told && isObject(row) && typeof row.id === "string" ? [[row.id, told]] : [];
    }),
  );
}

function toldIn(row: unknown): Told | undefined {
  if (!isObject(row)) return undefined;
  const { state, device, warmup_s, tokens_per_second, restarts, message } = row as Partial<SupervisedInstance>;
  if (!INSTANCE_STATES.some((known) => known === state)) return undefined;
  return {
    state: state as InstanceState,
    ...(typeof device === "string" && device !== "" && { device: device.slice(0, 253) }),
    ...(isAmount(warmup_s) && { warmupSeconds: warmup_s }),
    ...(isAmount(tokens_per_second) && { tokensPerSecond: tokens_per_second }),
    ...(isAmount(restarts) && { restarts }),
    ...(typeof message === "string" && message !== "" && { message: message.slice(0, 500) }),
  };
}

const isAmount = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value) && value >= 0;

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

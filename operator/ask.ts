import { INSTANCE_STATES, type InstanceState, type SupervisedInstance } from "../src/api/instance.ts";

/** What an instance, or its supervisor, told of it. */
export interface Told {
  state: InstanceState;
  device?: string;
  warmupSeconds?: number;
  tokensPerSecond?: number;
  /** Only a supervisor counts them, */
  restarts?: number;
  /** and says of what revision the process is. */
  revision?: string;
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
  /** Of a supervisor: the instances that are wanted there, with their revisions. */
  revisions?: ReadonlyMap<string, string>;
}

/**
 * Whether its process is of the wanted revision. A supervisor of an earlier release tells none and is believed: a new operator replaces no pod, so
 * such pods would never be what is wanted.
 */
export const isOfRevision = ({ revision }: Told, wanted: string): boolean =>
  revision === undefined || revision === wanted;

/** The JSON of an address; undefined when it does not answer. Never rejects. */
export type Ask = (url: string, signal: AbortSignal) => Promise<unknown>;

const ASK_MS = 2_000;
/** Longer than what 64 processes of one pod have to say of themselves. */
const MOST_BYTES = 64 * 1024;

/** The pod may run an image that is not ours: what it sends neither leads elsewhere nor fills the memory that all pools share. */
export const askOverHttp: Ask = async (url, signal) => {
  try {
    const limits = AbortSignal.any([signal, AbortSignal.timeout(ASK_MS)]);
    const { body } = await fetch(url, { signal: limits, redirect: "error" });
    return body && JSON.parse(await readText(body));
  } catch {
    return undefined;
  }
};

/** Rejects when there is too much of it: to leave the loop ends the connection. */
async function readText(body: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > MOST_BYTES) throw new Error(`more than ${MOST_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

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
  const { state, device, warmup_s, tokens_per_second, restarts, revision, message } =
    row as Partial<SupervisedInstance>;
  if (!INSTANCE_STATES.some((known) => known === state)) return undefined;
  return {
    state: state as InstanceState,
    ...(typeof device === "string" && device !== "" && { device: device.slice(0, 253) }),
    ...(isAmount(warmup_s) && { warmupSeconds: warmup_s }),
    ...(isAmount(tokens_per_second) && { tokensPerSecond: tokens_per_second }),
    ...(isAmount(restarts) && { restarts }),
    ...(typeof revision === "string" && { revision }),
    ...(typeof message === "string" && message !== "" && { message: message.slice(0, 500) }),
  };
}

const isAmount = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value) && value >= 0;

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

import type { InstanceState } from "../src/api/instance.ts";
import { CONTAINERS } from "../src/api/names.ts";
import type { Pod } from "./kinds.ts";
import type { Words } from "./words.ts";

/** What a pod says of the process in it. */
export interface PodState {
  state: InstanceState;
  /** Why it is not Ready, in words. */
  message?: string;
  /** One CamelCase word for a failure: the runtime's own reason or the kubelet's. */
  reason?: string;
  restarts: number;
}

/** Words of a kubelet for a container that will not run before someone does something. */
const BROKEN = new Set([
  "CrashLoopBackOff",
  "ImagePullBackOff",
  "ErrImagePull",
  "ErrImageNeverPull",
  "InvalidImageName",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
]);

const OURS: ReadonlySet<string> = new Set(Object.values(CONTAINERS));

/** Most characters of a message that goes into a status. */
const MESSAGE = 500;

/** The state of a pod's process, as far as the pod shows it: one that runs and is not ready is Loading. */
export function podState(pod: Pod): PodState {
  const statuses = pod.status?.containerStatuses ?? [];
  const restarts = statuses.reduce((sum, { restartCount }) => sum + restartCount, 0);
  const of = (state: InstanceState, message?: string, reason?: string): PodState => ({
    state,
    restarts,
    ...(message && { message: message.slice(0, MESSAGE) }),
    ...(reason !== undefined && { reason }),
  });
  // Also when it is told to go: nobody on its node hears that, and it stays until a person acts.
  if (isLost(pod)) {
    const node = `node ${pod.spec?.nodeName} does not answer`;
    const cure = "it comes back with the node, or elsewhere once the node is deleted or marked out of service";
    return of("Failed", `${node}: ${cure}`, "NodeLost");
  }
  if (pod.metadata.deletionTimestamp !== undefined) return of("Draining", "its pod ends");
  if (condition(pod, "Ready")?.status === "True") return of("Ready");
  const scheduled = condition(pod, "PodScheduled");
  if (scheduled?.status === "False")
    return of("Pending", scheduled.message, waitsForVolume(pod) ? undefined : "Unschedulable");
  for (const { name, state, lastState } of statuses) {
    const waiting = state?.waiting;
    const ended = state?.terminated ?? lastState?.terminated;
    const last = ended && (ended.exitCode !== 0 || ended.reason === "OOMKilled") ? lastWords(ended) : undefined;
    if (waiting?.reason !== undefined && BROKEN.has(waiting.reason)) {
      const which = OURS.has(name) ? "" : `container ${name}: `;
      const crashed = waiting.reason === "CrashLoopBackOff" && last;
      if (crashed) return of("Failed", `${which}${crashed.message}`, crashed.reason);
      return of(
        "Failed",
        `${which}${waiting.reason}: ${waiting.message ?? "the kubelet says no more"}`,
        waiting.reason,
      );
    }
    if (state?.terminated && last) return of("Failed", last.message, last.reason);
  }
  const running = statuses.length > 0 && statuses.every(({ state }) => state?.running !== undefined);
  if (running) return of("Loading");
  return of("Pending", statuses[0]?.state?.waiting?.message);
}

/** Of the pods of a node that it has lost the control plane says that they are not ready; that their containers are was the kubelet's last word. One with readiness gates may be so because a gate is not open yet. */
function isLost(pod: Pod): boolean {
  const unready = condition(pod, "Ready")?.status === "False";
  return unready && condition(pod, "ContainersReady")?.status === "True" && !pod.spec?.readinessGates?.length;
}

/** The scheduler's words for a pod whose volume is still being made, or never will be. */
const UNBOUND = /unbound immediate PersistentVolumeClaims/;

/** Whether a pod waits for a volume and for nothing else. */
export function waitsForVolume(pod: Pod): boolean {
  const scheduled = condition(pod, "PodScheduled");
  return scheduled?.status === "False" && UNBOUND.test(scheduled.message ?? "");
}

export const claimsOf = (pod: Pod): string[] =>
  (pod.spec?.volumes ?? []).flatMap(({ persistentVolumeClaim: claim }) => (claim ? [claim.claimName] : []));

/** The same, with what Events say of a pod that neither runs nor complains, and of a claim that finds no volume. */
export function podStateIn(pod: Pod, words: Words): PodState {
  const state = podState(pod);
  if (waitsForVolume(pod)) {
    const said = claimsOf(pod).flatMap((name) => {
      const why = words.get(`PersistentVolumeClaim/${name}`);
      return why === undefined ? [] : [`claim ${name} has no volume: ${why}`];
    });
    return said.length > 0 ? { ...state, reason: "VolumeUnbound", message: said.join("; ").slice(0, MESSAGE) } : state;
  }
  const said = words.get(`Pod/${pod.metadata.name}`);
  if (state.state !== "Pending" || state.message !== undefined || said === undefined) return state;
  return { ...state, reason: "Blocked", message: said.slice(0, MESSAGE) };
}

/** What the cluster denies until somebody acts. */
export const DENIED: ReadonlySet<string> = new Set(["Unschedulable", "VolumeUnbound", "PodsRefused", "Blocked"]);

/** The reason of a condition that is not True for this. */
export function reasonOf(seen: PodState | undefined): string {
  if (seen?.reason !== undefined && DENIED.has(seen.reason)) return seen.reason;
  if (seen?.state === "Failed") return "Failed";
  return seen?.state === "Pending" ? "Pending" : "Loading";
}

export const condition = (pod: Pod, type: string) => pod.status?.conditions?.find((c) => c.type === type);

/** A runtime that cannot start logs the reason as its last line, and the kubelet keeps the end of the log. */
function lastWords(ended: { exitCode: number; reason?: string; message?: string; signal?: number }) {
  if (ended.reason === "OOMKilled")
    return { reason: "OutOfMemory", message: "it went over its memory limit: raise resources.limits.memory" };
  for (const line of (ended.message ?? "").trim().split("\n").reverse()) {
    try {
      const said = JSON.parse(line) as { msg?: unknown; reason?: unknown };
      if (typeof said.msg === "string")
        return { reason: typeof said.reason === "string" ? said.reason : "ExitCode", message: said.msg };
    } catch {
      // Not a line of ours.
    }
  }
  const text = (ended.message ?? "").trim().split("\n").at(-1) ?? "";
  return { reason: "ExitCode", message: `it ended with exit code ${ended.exitCode}${text && `: ${text}`}` };
}

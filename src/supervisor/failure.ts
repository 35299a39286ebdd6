import type { FailureReason } from "../api/instance.ts";

/** Why a process is gone though it was wanted. */
export interface Failure {
  reason: FailureReason;
  /** In words, for status and logs. */
  message: string;
  /** True when a restart alone cannot cure it. */
  lasting: boolean;
}

/** Everything that is known about an ended process. */
export interface ProcessEnd {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** The kernel or the watchdog killed it for its memory. */
  outOfMemory: boolean;
  memoryLimitBytes?: number;
  /** What the supervisor killed it for. */
  killedFor?: { reason: FailureReason; message: string };
  /** The child's own last word. */
  failed?: { reason: FailureReason; message: string };
  /** Set when there was no process at all. */
  spawnError?: string;
  /** The last lines of its standard error. */
  stderr: readonly string[];
}

/** Codes as a shell reports signals, and as Node uses them. */
const EXIT_CODES: Record<number, string> = {
  0: "it ended though nobody asked it to",
  9: "invalid argument",
  122: "it could not enter its memory group",
  134: "native abort, its KV caches are lost",
  137: "killed",
  139: "native crash, its KV caches are lost",
};

const SIGNALS: Partial<Record<NodeJS.Signals, string>> = {
  SIGABRT: "native abort, its KV caches are lost",
  SIGSEGV: "native crash, its KV caches are lost",
  SIGBUS: "native crash, its KV caches are lost; a model file that shrinks while it is mapped does this",
  SIGILL: "the engine was built for another CPU",
  SIGKILL: "killed from outside, and not for its memory limit",
};

export function explainEnd(end: ProcessEnd): Failure {
  const { reason, message } = judge(end);
  return {
    reason,
    message,
    lasting: reason === "ConfigInvalid" || reason === "ModelInvalid" || reason === "ModelNotFound",
  };
}

function judge(end: ProcessEnd): { reason: FailureReason; message: string } {
  if (end.spawnError !== undefined)
    return { reason: "ExitCode", message: `no process could be started: ${end.spawnError}` };
  if (end.outOfMemory) return { reason: "OutOfMemory", message: outOfMemory(end.memoryLimitBytes) };
  if (end.killedFor) return end.killedFor;
  if (end.failed) return { reason: end.failed.reason, message: end.failed.message };
  if (end.stderr.some((line) => line.includes("JavaScript heap out of memory"))) {
    return { reason: "OutOfMemory", message: "the JavaScript heap of the process is full" };
  }
  const said = lastWords(end.stderr);
  if (end.signal) return { reason: "Signal", message: withDetail(end.signal, SIGNALS[end.signal], said) };
  const code = end.code ?? 1;
  return { reason: "ExitCode", message: withDetail(`exit code ${code}`, EXIT_CODES[code], said) };
}

function outOfMemory(limit: number | undefined): string {
  const cure = "raise spec.resources.limits.memory, or lower contextTokens or sessionsPerInstance";
  return limit === undefined ? `out of memory: ${cure}` : `went over its memory limit of ${mebibytes(limit)}: ${cure}`;
}

export const mebibytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;

const withDetail = (what: string, meaning: string | undefined, said: string): string =>
  [meaning ? `${what} (${meaning})` : what, said].filter(Boolean).join(": ");

/** The line that names an error, else the last line. Log lines give their message only; what an instance logs while all is well explains no end. */
function lastWords(stderr: readonly string[]): string {
  const lines = stderr.map(plain).filter((line) => line !== "" && !line.startsWith("Node.js v"));
  return (
    lines.findLast((line) => /^\S*(error|exception|fatal|abort|terminate)/i.test(line)) ??
    lines.at(-1) ??
    ""
  ).slice(0, 300);
}

function plain(line: string): string {
  if (!line.startsWith("{")) return line.trimEnd();
  try {
    const { level, msg } = JSON.parse(line) as { level?: unknown; msg?: unknown };
    if (level === "info" || level === "debug") return "";
    if (msg !== undefined) return String(msg);
  } catch {
    // Not a log line after all.
  }
  return line.trimEnd();
}

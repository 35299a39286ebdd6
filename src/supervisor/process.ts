import { type ChildProcess, spawn } from "node:child_process";
import type { FailureReason, InstanceMessage, SupervisorMessage } from "../api/instance.ts";
import type { Clock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { childEnv } from "./child-env.ts";
import { programOf } from "./entry.ts";
import type { ProcessEnd } from "./failure.ts";
import { type MemoryGroup, type MemoryGroups, removeSoon } from "./memory-group.ts";
import type { ProcessSpec } from "./spec.ts";
import { TailBuffer } from "./tail-buffer.ts";
import type { MemoryWatchdog } from "./watchdog.ts";

/** One started process, as its keeper sees it. */
export interface RunningProcess {
  readonly pid: number | undefined;
  /** Does nothing when the process is gone or going. */
  send(message: SupervisorMessage): void;
  /** Signals the process and all it started. `why` becomes the reason of its end. */
  kill(signal: "SIGTERM" | "SIGKILL", why?: { reason: FailureReason; message: string }): void;
}

export interface ProcessEvents {
  onMessage(message: InstanceMessage): void;
  onLine(line: string): void;
  /** Once, after everything else; nothing of the process is left then. */
  onEnd(end: ProcessEnd): void;
}

export type Launch = (spec: ProcessSpec, events: ProcessEvents) => RunningProcess;

export interface LaunchDeps {
  clock: Clock;
  env: Readonly<Record<string, string | undefined>>;
  /** The program of instances that run in Node. */
  entry: string;
  groups: MemoryGroups | undefined;
  watchdog: MemoryWatchdog;
}

/** `exec` keeps the pid and the IPC channel; until then nothing that counts is allocated. */
const ENTER_GROUP = 'echo $$ > "$0" || exit 122; exec "$@"';

/** How long the pipes of a dead process may stay open before its end is told anyway. */
const PIPES_MS = 2000;

let groupCounter = 0;

/** Starts real processes, each in a process group of its own: a terminal's Ctrl-C reaches the supervisor alone, which then drains them. */
export function makeLaunch({ clock, env, entry, groups, watchdog }: LaunchDeps): Launch {
  return (spec, events) => {
    const limit = spec.memoryLimitBytes;
    const group = limit === undefined || !groups ? undefined : tryCreate(groups, limit);
    const { command, env: own } = programOf(spec.config.backend, entry, env);
    const [program, ...args] = group ? ["/bin/sh", "-c", ENTER_GROUP, group.procsFile, ...command] : command;
    const child = spawn(program, args, {
      env: { ...childEnv(env, spec.config), ...own },
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      detached: true,
    });
    return new ChildInstance(child, spec, group, { clock, watchdog, events });
  };
}

class ChildInstance implements RunningProcess {
  readonly #child: ChildProcess;
  readonly #tail: TailBuffer;
  #outOfMemory = false;
  #killedFor: ProcessEnd["killedFor"];
  #failed: ProcessEnd["failed"];
  #ended = false;

  constructor(
    child: ChildProcess,
    spec: ProcessSpec,
    group: MemoryGroup | undefined,
    { clock, watchdog, events }: { clock: Clock; watchdog: MemoryWatchdog; events: ProcessEvents },
  ) {
    this.#child = child;
    this.#tail = new TailBuffer(events.onLine);
    const limit = spec.memoryLimitBytes;
    const unwatch =
      limit !== undefined && !group && child.pid !== undefined
        ? watchdog.watch(child.pid, limit, () => {
            this.#outOfMemory = true;
            this.kill("SIGKILL");
          })
        : undefined;

    const end = async (code: number | null, signal: NodeJS.Signals | null, spawnError?: string) => {
      if (this.#ended) return;
      this.#ended = true;
      unwatch?.();
      this.#tail.end();
      const outOfMemory = this.#outOfMemory || (signal === "SIGKILL" && (group?.oomKills() ?? 0) > 0);
      if (group) await removeSoon(group);
      events.onEnd({
        code,
        signal,
        outOfMemory,
        stderr: this.#tail.lines,
        ...(limit !== undefined && { memoryLimitBytes: limit }),
        ...(this.#killedFor && { killedFor: this.#killedFor }),
        ...(this.#failed && { failed: this.#failed }),
        ...(spawnError !== undefined && { spawnError }),
      });
    };

    child.stderr?.on("data", (chunk: Buffer) => this.#tail.write(chunk));
    child.on("message", (message) => {
      const known = message as InstanceMessage;
      if (known.type === "failed") this.#failed = { reason: known.reason, message: known.message };
      if (!this.#ended) events.onMessage(known);
    });
    // A channel that breaks while a message is written raises this; the exit that follows tells the rest.
    child.on("error", (error) => {
      if (child.pid === undefined) void end(null, null, messageOf(error));
    });
    child.on("exit", (code, signal) => {
      // What it started itself must not outlive it, nor keep its pipes open.
      this.#signalGroup("SIGKILL");
      clock.after(PIPES_MS, () => void end(code, signal));
    });
    // After `exit` and after the last message and line have been read.
    child.on("close", (code, signal) => void end(code, signal));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  send(message: SupervisorMessage): void {
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  kill(signal: "SIGTERM" | "SIGKILL", why?: { reason: FailureReason; message: string }): void {
    if (this.#ended) return;
    this.#killedFor ??= why;
    this.#signalGroup(signal);
  }

  #signalGroup(signal: "SIGTERM" | "SIGKILL"): void {
    if (this.#child.pid === undefined) return;
    try {
      process.kill(-this.#child.pid, signal);
    } catch {
      // ESRCH: nobody is left.
    }
  }
}

/** Without a group the watchdog looks after the limit. */
function tryCreate(groups: MemoryGroups, limitBytes: number): MemoryGroup | undefined {
  try {
    return groups.create(String(groupCounter++), limitBytes);
  } catch {
    return undefined;
  }
}

import { findCgroup, read } from "../../lib/cgroup.ts";
import { type Finding, fail, info, ok, warn } from "./finding.ts";

const GIB = 2 ** 30;
/** Five small instances of examples/quickstart.yaml, as resident memory. */
const QUICKSTART_BYTES = 1.5 * GIB;

export function checkNode(version: string): Finding {
  const [major = 0, minor = 0] = version.replace(/^v/, "").split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 19)) return ok("node", version);
  return fail("node", `${version} is too old`, "install Node 24, or start with npm start, which brings its own");
}

/** `usable` is after affinity and control-group quota, `machine` before. */
export function checkCpus(usable: number, machine: number): Finding {
  const less = usable < machine ? ` of the machine's ${machine} (affinity or control group)` : "";
  const detail = `${usable} usable${less}: so many instances compute at full speed at once`;
  return usable > 1
    ? ok("cpu", detail)
    : warn("cpu", detail, "instances take turns on one CPU; give this container more");
}

export function checkMemory(available: number, total: number): Finding {
  const detail = `${gib(available)} of ${gib(total)} available; examples/quickstart.yaml takes about ${gib(QUICKSTART_BYTES)}`;
  if (available >= QUICKSTART_BYTES) return ok("memory", detail);
  return warn(
    "memory",
    detail,
    "use fewer instances, a smaller contextTokens, or examples/stub.yaml, which needs none",
  );
}

/** `version` is of the control groups this user may really make, by trying it; `start` is how a pool is started. */
export function checkMemoryLimits(version: 1 | 2 | undefined, platform: NodeJS.Platform, start: string): Finding {
  if (version) return ok("memory limits", `enforced by the kernel (cgroup v${version})`);
  const watchdog = "a watchdog in llmpool ends an instance above its limit";
  if (platform !== "linux") return info("memory limits", `${watchdog} (this system has no control groups)`);
  return warn(
    "memory limits",
    `no control group can be made here: ${watchdog}, a moment later than the kernel would`,
    `run as root, or with a delegated group: systemd-run --user --scope -p Delegate=yes ${start}`,
  );
}

/** Where one out-of-memory kill takes all processes of a container, a watchdog has to be faster. `root` is given by tests. */
export function checkGroupKill(root = "/"): Finding | undefined {
  const group = findCgroup("memory", root);
  if (group?.version !== 2 || read(`${group.dir}/memory.oom.group`).trim() !== "1") return undefined;
  return warn(
    "group kill",
    "one process out of memory ends every process of this container (memory.oom.group is 1)",
    "set singleProcessOOMKill: true in the kubelet's configuration; until then the watchdog acts first",
  );
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`;
}

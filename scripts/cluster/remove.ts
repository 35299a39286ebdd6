import { existsSync } from "node:fs";
import { readdir, rm, rmdir } from "node:fs/promises";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { command } from "./command.ts";
import { type Home, networkOf } from "./home.ts";
import { controlGroups } from "./node.ts";
import { killAll, processesOf } from "./processes.ts";

/** What is left of a cluster on this machine, in words; empty when nothing is. */
export function remains(home: Home): string[] {
  const processes = processesOf(home.run).filter(({ pid }) => pid !== process.pid);
  const groups = process.platform === "linux" ? controlGroups(home).filter(existsSync) : [];
  return [
    ...processes.map(({ pid, name }) => `process ${pid} (${name})`),
    ...(hasLink(home) ? [`network interface ${networkOf(home).link}`] : []),
    ...groups.map((dir) => `control group ${dir}`),
    ...(existsSync(home.run) ? [home.run] : []),
  ];
}

/**
 * Ends and removes all of a cluster. Works from what is there, not from what was recorded, so it does for a running cluster and for a half
 * started or half removed one. The node's namespaces end with its process 1, and with them its mounts, firewall rules and containers.
 */
export async function remove(home: Home): Promise<void> {
  await killAll(home.run);
  if (process.platform === "linux") {
    // Going with its other end, it is often gone before it is asked to.
    if (hasLink(home)) await command("ip", ["link", "delete", networkOf(home).link]).catch(() => {});
    for (const dir of controlGroups(home)) await removeGroup(dir);
  }
  await rm(home.run, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}

function hasLink(home: Home): boolean {
  const { link } = networkOf(home);
  return existsSync(`/sys/class/net/${link}`) || link in networkInterfaces();
}

/** A group can only be removed when its last process is gone to the end, which takes a moment after a kill. */
async function removeGroup(dir: string): Promise<void> {
  for (let attempt = 0; existsSync(dir); attempt++) {
    try {
      for (const entry of await readdir(dir, { withFileTypes: true }))
        if (entry.isDirectory()) await removeGroup(join(dir, entry.name));
      await rmdir(dir);
    } catch (error) {
      if (attempt === 200) throw error;
      await sleep(50);
    }
  }
}

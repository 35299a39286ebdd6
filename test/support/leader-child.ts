/** A process that writes a counter while it leads: `leader-child.ts URL IDENTITY`. Exit 3: it lost the lease. */
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "../../src/kube/client.ts";
import { Connection } from "../../src/kube/connection.ts";
import { isConflict } from "../../src/kube/errors.ts";
import { acquireLease, NotLeaderError } from "../../src/kube/lease.ts";
import { RESOURCES } from "../../src/kube/resource.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import type { ConfigMap } from "./mini-operator.ts";

// No timer of the clock keeps a process alive, and a candidate has nothing else to do.
setInterval(() => {}, 60_000);
const [server = "", identity = ""] = process.argv.slice(2);
const credentials = { server, namespace: "ns", read: async () => ({ headers: {}, tls: {} }) };
const connection = new Connection({ credentials, clock: systemClock, userAgent: identity });
const client = new Client({ connection, clock: systemClock });
const leadership = await acquireLease(
  {
    client,
    namespace: "ns",
    name: "mini",
    identity,
    clock: systemClock,
    random: Math.random,
    log: silentLogger,
    leaseMs: 3_000,
    renewDeadlineMs: 2_000,
    retryMs: 200,
  },
  new AbortController().signal,
);
process.once("SIGTERM", async () => {
  await leadership.close();
  process.exit(0);
});
leadership.signal.addEventListener("abort", () => {
  if (!String(leadership.signal.reason).includes("given up")) process.exit(3);
});

const guarded = client.guarded(() => leadership.ensure());
for (;;) {
  try {
    const counter = await client.get<ConfigMap>(RESOURCES.configMaps, { namespace: "ns", name: "counter" });
    const count = Number(counter.data?.count ?? 0) + 1;
    await guarded.update({ ...counter, data: { count: String(count), writer: identity } });
  } catch (error) {
    if (!isConflict(error) && !(error instanceof NotLeaderError)) throw error;
  }
  await sleep(20);
}

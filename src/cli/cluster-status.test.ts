import { load } from "js-yaml";
import { expect, test } from "vitest";
import { pool as makePool } from "../../test/support/pool.ts";
import type { LLMPoolStatus } from "../api/llmpool.ts";
import { type StoredPool, showPool } from "./cluster-status.ts";

const condition = (type: string, status: "True" | "False" | "Unknown", reason: string, message: string) => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: "2026-01-01T00:00:00Z",
});

const STATUS: LLMPoolStatus = {
  observedGeneration: 3,
  url: "http://apex.team.svc:8080",
  roles: [
    { name: "planner", instances: ["0"] },
    { name: "coder", instances: ["0", "code-0"] },
  ],
  instanceStatuses: [
    {
      id: "0",
      variant: "default",
      pod: "apex-0",
      state: "Ready",
      node: "n1",
      device: "H100 80GB",
      tokensPerSecond: 61.4,
    },
    { id: "code-0", variant: "code", pod: "apex-code-0", state: "Failed", restarts: 2, message: "OutOfMemory" },
  ],
  conditions: [
    condition("Ready", "False", "Degraded", "1 of 2 instances ready; code-0: OutOfMemory"),
    condition("InstancesReady", "False", "Degraded", "1 of 2 instances ready; code-0: OutOfMemory"),
    condition("RouterReady", "True", "StoreEphemeral", "1 of 1 routers serve; state goes with its pod"),
    condition("Schedulable", "True", "Ready", "every pod has a node"),
    condition("Progressing", "False", "Complete", "everything is as the spec wants it"),
    condition("Stalled", "True", "Degraded", "1 of 2 instances ready; code-0: OutOfMemory"),
  ],
};

function stored(status: LLMPoolStatus | undefined, generation = 3): StoredPool {
  const pool = makePool({ backend: "stub", instances: 2 });
  const metadata = { ...pool.metadata, namespace: "team", generation };
  return { ...pool, metadata, ...(status && { status }) } as StoredPool;
}

test("a pool's status is its instances and roles, and what is not as it should be", () => {
  expect(showPool(stored(STATUS), undefined)).toBe(
    [
      "pool team/apex at http://apex.team.svc:8080: 1 of 2 instances ready",
      "Ready: Degraded: 1 of 2 instances ready; code-0: OutOfMemory",
      "RouterReady: StoreEphemeral: 1 of 1 routers serve; state goes with its pod",
      "INSTANCE   STATE    ROLES           POD           DEVICE      TOK/S   RESTARTS   MESSAGE",
      "0          Ready    planner,coder   apex-0        H100 80GB   61      0          -",
      "code-0     Failed   coder           apex-code-0   -           -       2          OutOfMemory",
      "",
    ].join("\n"),
  );
  expect(showPool(stored(STATUS), "wide")).toMatch(/^0 .* n1 /m);
});

test("a pool whose spec no operator has looked at says so", () => {
  for (const pool of [stored(undefined), stored({ observedGeneration: -1 }), stored({ ...STATUS }, 4)])
    expect(showPool(pool, undefined).split("\n")[1]).toMatch(/^no operator has looked at its newest spec yet/);
});

test("programs get the resource as it is, or the ids", () => {
  expect(load(showPool(stored(STATUS), "yaml"))).toMatchObject({
    metadata: { name: "apex" },
    status: { url: STATUS.url },
  });
  expect(showPool(stored(STATUS), "name")).toBe("0\ncode-0\n");
});

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { poolPlan } from "../../test/support/pool.ts";
import type { InstancePlan, RolePlan } from "../core/plan/types.ts";
import { makeAuthenticate, requireRole, requireScope } from "./auth.ts";

const sha256 = (key: string) => createHash("sha256").update(key).digest("hex");
const secret = (entries: Record<string, object>) => ({
  keys: Object.fromEntries(Object.entries(entries).map(([name, e]) => [name, Buffer.from(JSON.stringify(e))])),
});
const auth = { mode: "ApiKey", secretName: "keys" } as const;

test("knows a caller by the hash of its key", () => {
  const authenticate = makeAuthenticate(
    auth,
    secret({ alice: { sha256: sha256("k1"), tokens: 10, windowSeconds: 60 } }),
  );
  const caller = authenticate("Bearer k1");
  expect(caller.tenant).toBe("alice");
  expect(caller.budget).toEqual({ tokens: 10, windowSeconds: 60 });
  for (const wrong of [undefined, "", "Bearer", "Bearer k2", "Basic k1", "k1", `Bearer ${sha256("k1")}`]) {
    expect(() => authenticate(wrong)).toThrow(expect.objectContaining({ code: "unauthorized" }));
  }
});

test("scopes and roles are refused by name, and admin has every scope", () => {
  const authenticate = makeAuthenticate(
    auth,
    secret({
      a: { sha256: sha256("a"), scopes: ["read"], roles: ["planner"] },
      b: { sha256: sha256("b"), scopes: ["admin"] },
    }),
  );
  const a = authenticate("bearer a");
  expect(() => requireScope(a, "inference")).toThrow(/"inference"/);
  const { roles, variants } = poolPlan({
    instances: 2,
    roles: [
      { name: "planner", instance: 0 },
      { name: "coder", instance: 1 },
    ],
  });
  const [planner, coder] = roles as [RolePlan, RolePlan];
  const [own, other] = (variants[0]?.instances ?? []) as [InstancePlan, InstancePlan];
  expect(() => requireRole(a, { role: coder })).toThrow(/planner/);
  expect(() => requireRole(a, {})).toThrow(expect.objectContaining({ code: "forbidden" }));
  expect(() => requireRole(a, { role: planner, instance: other })).toThrow(
    /may not use instance 1; role planner has 0$/,
  );
  requireRole(a, { role: planner });
  requireRole(a, { role: planner, instance: own });
  requireScope(authenticate("Bearer b"), "inference");
});

test("lists every bad entry, without its content", () => {
  const bad = secret({
    a: { sha256: "xyz" },
    b: { sha256: sha256("b"), scopes: ["root"] },
    c: { sha256: sha256("c"), more: 1 },
  });
  const entries = { ...bad.keys, d: Buffer.from("hunter2") };
  expect(() => makeAuthenticate(auth, { keys: entries })).toThrow(/"a".*\n.*"b".*\n.*"c".*\n.*"d"/);
  expect(() => makeAuthenticate(auth, { keys: entries })).not.toThrow(/hunter2|xyz/);
  expect(() => makeAuthenticate(auth, {})).toThrow(/--secret keys=DIR/);
});

test("one key of two callers is refused, by their names", () => {
  const same = secret({ a: { sha256: sha256("k") }, b: { sha256: sha256("k"), scopes: ["admin"] } });
  expect(() => makeAuthenticate(auth, same)).toThrow(/"a" and "b" have the same key/);
});

test("without keys everybody is one tenant", () => {
  expect(makeAuthenticate({ mode: "None" }, {})(undefined).tenant).toBe("");
});

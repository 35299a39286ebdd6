import { expect, test } from "vitest";
import { checkServer, parseInfo } from "./server-check.ts";

const GOOD = { redis_version: "7.0.15", role: "master", aof_enabled: "1" };

test.each([
  { name: "a durable primary", given: {}, want: undefined },
  { name: "an old server", given: { redis_version: "6.2.7" }, want: "version 7.0 or newer" },
  { name: "a newer one", given: { redis_version: "10.1.0" }, want: undefined },
  { name: "a replica", given: { role: "slave" }, want: "give the URL of the primary" },
  { name: "a volatile one", given: { aof_enabled: "0" }, want: "set `appendonly yes`" },
])("$name", ({ given, want }) => {
  const problem = checkServer(new Map(Object.entries({ ...GOOD, ...given })), false);
  if (want === undefined) expect(problem).toBeUndefined();
  else expect(problem).toContain(want);
});

test("a volatile one is taken when that is allowed", () => {
  expect(checkServer(new Map(Object.entries({ ...GOOD, aof_enabled: "0" })), true)).toBeUndefined();
});

test("reads the lines of INFO", () => {
  expect(parseInfo("# Server\r\nrun_id:abc\r\nmaster_host:::1\r\n\r\n")).toEqual(
    new Map([
      ["run_id", "abc"],
      ["master_host", "::1"],
    ]),
  );
});

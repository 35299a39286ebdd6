import { stripVTControlCharacters } from "node:util";
import fc from "fast-check";
import { expect, test } from "vitest";
import { type InstanceRow, statusTable } from "./status-table.ts";
import { bytesText, durationText, plainWidth, toWidth } from "./text.ts";

const row = (change: Partial<InstanceRow> = {}): InstanceRow => ({
  object: "instance",
  id: "0",
  variant: "default",
  state: "Ready",
  roles: ["planner"],
  queued: 0,
  running: 0,
  sessions: 2,
  tokens_per_second: 61.4,
  restarts: 0,
  device: "CPU",
  message: null,
  ...change,
});

test("aligns columns, shows progress and reasons", () => {
  const rows = [
    row(),
    row({ id: "code-0", state: "Loading", progress: 0.437, roles: [], device: null, tokens_per_second: null }),
    row({ id: "1", state: "Failed", restarts: 12, message: "SIGKILL" }),
  ];
  expect(statusTable(rows, 120, false)).toEqual([
    "INSTANCE  STATE         ROLES    DEVICE  SESSIONS  QUEUE  TOK/S  RESTARTS  MESSAGE",
    "0         Ready         planner  CPU            2      0     61         0",
    "code-0    Loading 43%   -        -              2      0      -         0",
    "1         Failed        planner  CPU            2      0     61        12  SIGKILL",
  ]);
});

test("a narrow terminal shows why in full: messages have lines of their own, the least columns go, no header is cut", () => {
  const message = "went over its memory limit of 512 MiB: raise spec.resources.limits.memory, or lower contextTokens";
  const rows = [row({ roles: ["planner", "critic"] }), row({ id: "1", state: "Failed", message })];
  expect(statusTable(rows, 80, false)).toEqual([
    "INSTANCE  STATE   ROLES           DEVICE  SESSIONS  QUEUE  TOK/S  RESTARTS",
    "0         Ready   planner,critic  CPU            2      0     61         0",
    "1         Failed  planner         CPU            2      0     61         0",
    "  went over its memory limit of 512 MiB: raise spec.resources.limits.memory, or",
    "  lower contextTokens",
  ]);
  expect(statusTable(rows, 60, false).slice(0, 2)).toEqual([
    "INSTANCE  STATE   ROLES           DEVICE  QUEUE  RESTARTS",
    "0         Ready   planner,critic  CPU         0         0",
  ]);
});

test("no column moves while a model loads", () => {
  const at = (progress: number) => statusTable([row({ state: "Loading", progress })], 80, false)[0];
  expect(at(0.01)).toBe(at(1));
});

test("is never wider than the terminal, colours or not, and lets no foreign control character through", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.string({ unit: "binary" }),
      fc.boolean(),
      (width, message, color) => {
        for (const line of statusTable([row({ message, device: "Metal (Apple M3)" })], width, color)) {
          expect(plainWidth(line)).toBeLessThanOrEqual(width);
          // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there.
          expect(stripVTControlCharacters(line)).not.toMatch(/[\x00-\x1f\x7f-\x9f]/);
        }
      },
    ),
  );
});

test("colours the state and nothing else", () => {
  const [, line = ""] = statusTable([row({ id: "Ready-0" })], 120, true);
  expect(line).toContain("Ready-0   \x1b[32mReady\x1b[0m ");
  expect(stripVTControlCharacters(line)).toBe(statusTable([row({ id: "Ready-0" })], 120, false)[1]);
});

test("texts are cut to columns, not to code units", () => {
  expect([toWidth("🙂🙂🙂", 2), toWidth("ab", 4), toWidth("ab", 4, true)]).toEqual(["🙂…", "ab  ", "  ab"]);
});

test("sizes read as downloads are counted", () => {
  expect([0, 999, 1000, 92_871_040, 512e9].map(bytesText)).toEqual(["0 B", "999 B", "1.0 KB", "92.9 MB", "512 GB"]);
});

test.each([
  [-5, "0s"],
  [119.9, "119s"],
  [120, "2m"],
  [125, "2m5s"],
  [3599, "59m"],
  [3600, "1h"],
  [7500, "2h5m"],
  [86_400 * 2, "2d"],
  [86_400 * 2 + 7200, "2d2h"],
])("shows %d seconds as %s", (seconds, want) => {
  expect(durationText(seconds)).toBe(want);
});

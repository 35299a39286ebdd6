import { expect, test } from "vitest";
import { explainEnd, type ProcessEnd } from "./failure.ts";

const end = (change: Partial<ProcessEnd>): ProcessEnd => ({
  code: null,
  signal: null,
  outOfMemory: false,
  stderr: [],
  ...change,
});

const rows: {
  name: string;
  given: Partial<ProcessEnd>;
  want: { reason: string; message: RegExp; lasting?: boolean };
}[] = [
  {
    name: "an out-of-memory kill names the limit and the cure",
    given: { signal: "SIGKILL", outOfMemory: true, memoryLimitBytes: 512 * 2 ** 20 },
    want: { reason: "OutOfMemory", message: /limit of 512 MiB: raise spec.resources.limits.memory/ },
  },
  {
    name: "a kill -9 is a signal",
    given: { signal: "SIGKILL", memoryLimitBytes: 1 },
    want: { reason: "Signal", message: /^SIGKILL \(killed from outside/ },
  },
  {
    name: "the supervisor's own kill keeps its reason",
    given: { signal: "SIGKILL", killedFor: { reason: "Unresponsive", message: "no answer" } },
    want: { reason: "Unresponsive", message: /^no answer$/ },
  },
  {
    name: "the child's last word wins over its exit code",
    given: { code: 1, failed: { reason: "ModelInvalid", message: "no magic" } },
    want: { reason: "ModelInvalid", message: /^no magic$/, lasting: true },
  },
  {
    name: "a full JavaScript heap is out of memory, not an abort",
    given: {
      signal: "SIGABRT",
      stderr: ["FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"],
    },
    want: { reason: "OutOfMemory", message: /JavaScript heap/ },
  },
  {
    name: "SIGABRT",
    given: { signal: "SIGABRT" },
    want: { reason: "Signal", message: /native abort, its KV caches are lost/ },
  },
  {
    name: "SIGSEGV",
    given: { signal: "SIGSEGV" },
    want: { reason: "Signal", message: /native crash, its KV caches are lost/ },
  },
  {
    name: "134",
    given: { code: 134 },
    want: { reason: "ExitCode", message: /^exit code 134 \(native abort, its KV caches are lost\)$/ },
  },
  {
    name: "139",
    given: { code: 139 },
    want: { reason: "ExitCode", message: /139 \(native crash, its KV caches are lost\)/ },
  },
  {
    name: "an end that nobody asked for",
    given: { code: 0 },
    want: { reason: "ExitCode", message: /exit code 0 \(it ended though/ },
  },
  {
    name: "the line that names the error, not the stack under it",
    given: {
      code: 1,
      stderr: [
        "file:///x.ts:3",
        "  throw new Error();",
        "",
        "TypeError: cannot read properties",
        "    at x.ts:3:9",
        "",
        "Node.js v24.21.0",
      ],
    },
    want: { reason: "ExitCode", message: /^exit code 1: TypeError: cannot read properties$/ },
  },
  {
    name: "the message of a log line",
    given: { code: 1, stderr: ['{"level":"fatal","msg":"could not bind"}'] },
    want: { reason: "ExitCode", message: /^exit code 1: could not bind$/ },
  },
  {
    name: "what it logged while all was well is not why it ended",
    given: { code: 3, stderr: ["loading tensors failed", '{"level":"info","msg":"ready"}'] },
    want: { reason: "ExitCode", message: /^exit code 3: loading tensors failed$/ },
  },
  {
    name: "nor is it a last word when there is no other",
    given: { signal: "SIGKILL", stderr: ['{"level":"info","ts":"2026-01-01T00:00:00Z","msg":"ready"}'] },
    want: { reason: "Signal", message: /^SIGKILL \(killed from outside, and not for its memory limit\)$/ },
  },
  {
    name: "no process at all",
    given: { spawnError: "spawn EAGAIN" },
    want: { reason: "ExitCode", message: /^no process could be started: spawn EAGAIN$/ },
  },
];

test.each(rows)("$name", ({ given, want }) => {
  const failure = explainEnd(end(given));
  expect(failure).toMatchObject({ reason: want.reason, lasting: want.lasting ?? false });
  expect(failure.message).toMatch(want.message);
});

/**
 * `npm test`: every suite that this machine can run, a line each, failures in full, and one closing line that adds up what ran.
 * `npm test -- NAME...` runs only the named suites; `npm test -- --list` names them.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { runChecks } from "./checks.ts";
import { clusterForRun } from "./cluster/for-tests.ts";
import { release } from "./cluster/lifecycle.ts";
import { pythonChecks } from "./hf-cuda/checks.ts";
import { NoPython, setUpHfCuda } from "./hf-cuda/setup.ts";

interface Tally {
  passed: number;
  failed: number;
  skipped: number;
}

/** The part of vitest's JSON report that is read here. */
interface Report {
  testResults: {
    name: string;
    status: string;
    message?: string;
    assertionResults: { status: string; fullName: string; failureMessages: string[] | null }[];
  }[];
}

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const SUITES: Record<string, string[]> = {
  unit: ["src", "operator", "runtime-image", "scripts"],
  house: ["test/house.test.ts"],
  conformance: ["test/conformance"],
  integration: ["test/integration"],
  history: ["test/history"],
  e2e: ["test/e2e"],
  cluster: ["test/cluster"],
  "hf-cuda": ["test/hf-cuda"],
};

/** A real model in Python: one process at a time, and a limit against hanging that a busy machine does not meet. */
const SLOW = ["--no-file-parallelism", "--testTimeout=600000", "--hookTimeout=600000"];

const asked = process.argv.slice(2);
const names = ["checks", ...Object.keys(SUITES)];
if (asked.includes("--list")) {
  console.log(names.join("\n"));
  process.exit(0);
}
const unknown = asked.filter((name) => !names.includes(name));
if (unknown.length > 0) {
  console.error(`unknown suite ${unknown.join(", ")}; there are ${names.join(", ")}`);
  process.exit(2);
}

// Told to end, this ends the suite that runs, and removes what was made for it.
let running: ChildProcess | undefined;
let told: number | undefined;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    told = 128 + constants.signals[signal];
    if (!running?.kill(signal)) process.exit(told);
  });
}

/** Suites that run only when they are asked for, and how to. */
const ON_REQUEST: Record<string, string> = { "hf-cuda": "npm test -- hf-cuda" };

const total: Tally = { passed: 0, failed: 0, skipped: 0 };
for (const name of asked.length > 0 ? asked : names) {
  const request = ON_REQUEST[name];
  if (request !== undefined && asked.length === 0) {
    console.log(`skipped: the suite ${name}; it runs with: ${request}`);
    total.skipped += 1;
    continue;
  }
  const began = performance.now();
  const tally = await runSuite(name);
  if (told !== undefined) process.exit(told);
  const seconds = Math.round((performance.now() - began) / 1000);
  console.log(`${name}: ${tally.passed} passed, ${tally.failed} failed, ${tally.skipped} skipped (${seconds} s)`);
  total.passed += tally.passed;
  total.failed += tally.failed;
  total.skipped += tally.skipped;
}
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;

async function runSuite(name: string): Promise<Tally> {
  if (name === "checks") return checks();
  if (name === "hf-cuda") return hfCuda();
  if (name !== "cluster") return vitest(SUITES[name] ?? []);
  // Started here, so that a first start's lines are seen while it builds; and ended here, so that nothing is left when this is done.
  const { home } = await clusterForRun(process.env, process.pid, console.log);
  try {
    return await vitest([...(SUITES[name] ?? []), "--no-file-parallelism"]);
  } finally {
    await release(home, process.pid, console.log);
  }
}

/** The Python instance: its own checks and tests, then the conformance suite against its process. */
async function hfCuda(): Promise<Tally> {
  try {
    const home = await setUpHfCuda(console.log);
    process.env.LLMPOOL_TEST_HF_CUDA = home.dir;
    const python = await pythonChecks(home, run, console.log);
    const { passed, failed, skipped } = await vitest([...(SUITES["hf-cuda"] ?? []), ...SLOW]);
    return { passed: python.passed + passed, failed: python.failed + failed, skipped: python.skipped + skipped };
  } catch (error) {
    if (!(error instanceof NoPython)) throw error;
    console.log(`skipped: the suite hf-cuda: ${error.message}; then: npm test -- hf-cuda`);
    return { passed: 0, failed: 0, skipped: 1 };
  }
}

async function checks(): Promise<Tally> {
  const results = await runChecks();
  for (const { name, ok, output } of results) if (!ok) console.log(`FAILED check: ${name}\n${output}`);
  const passed = results.filter((r) => r.ok).length;
  return { passed, failed: results.length - passed, skipped: 0 };
}

async function vitest(paths: string[]): Promise<Tally> {
  const dir = await mkdtemp(join(tmpdir(), "llmpool-test-"));
  try {
    const file = join(dir, "report.json");
    const entry = join(root, "node_modules/vitest/vitest.mjs");
    const reporters = [`--reporter=${join(root, "scripts/diffs.ts")}`, "--reporter=json", `--outputFile.json=${file}`];
    const args = [entry, "run", "--passWithNoTests", ...reporters, ...paths.map(rooted)];
    const output = await run(process.execPath, args);
    const report = await readFile(file, "utf8").then(
      (text) => JSON.parse(text) as Report,
      () => undefined,
    );
    if (!report) {
      console.log(`FAILED: the test runner wrote no report\n${output.text}`);
      return { passed: 0, failed: 1, skipped: 0 };
    }
    return tallyOf(report, output);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** The runner takes every file whose path contains the filter: a whole path from the root is in no other folder's. Options stay as they are. */
function rooted(path: string): string {
  if (path.startsWith("--")) return path;
  return path.endsWith(".ts") ? join(root, path) : `${join(root, path)}/`;
}

function tallyOf(report: Report, run: { code: number; text: string }): Tally {
  const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
  for (const file of report.testResults) {
    for (const test of file.assertionResults) {
      if (test.status === "passed") tally.passed++;
      else if (test.status === "failed") tally.failed++;
      else {
        tally.skipped++;
        console.log(`skipped: ${test.fullName}`);
      }
      if (test.status === "failed")
        console.log(`FAILED ${file.name}\n  ${test.fullName}\n${(test.failureMessages ?? []).join("\n")}`);
    }
    // A file that did not load has no tests, and must not pass for that.
    if (file.status === "failed" && !file.assertionResults.some((t) => t.status === "failed")) {
      tally.failed++;
      console.log(`FAILED ${file.name}\n${file.message ?? ""}`);
    }
  }
  if (run.code !== 0 && tally.failed === 0) {
    tally.failed++;
    console.log(`FAILED outside of any test\n${run.text}`);
  }
  return tally;
}

function run(file: string, args: string[], cwd = root): Promise<{ code: number; text: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
    running = child;
    let text = "";
    const keep = (chunk: Buffer) => {
      text = (text + chunk.toString()).slice(-200_000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? 1, text }));
  });
}

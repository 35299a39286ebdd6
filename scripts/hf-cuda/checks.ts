import { join } from "node:path";
import { type HfCudaHome, PACKAGE } from "./setup.ts";

/** Runs a program and collects what it says. */
export type Run = (file: string, args: string[], cwd: string) => Promise<{ code: number; text: string }>;

/** The Python side's own checks: format, lint, types and pytest. What fails is said. */
export async function pythonChecks(
  { dir, python }: HfCudaHome,
  run: Run,
  say: (line: string) => void,
): Promise<{ passed: number; failed: number; skipped: number }> {
  const tally = { passed: 0, failed: 0, skipped: 0 };
  const ruff = join(dir, "venv/bin/ruff");
  const checks: [string, string, string[]][] = [
    ["ruff format", ruff, ["format", "--check", "--no-cache", "."]],
    ["ruff", ruff, ["check", "--no-cache", "."]],
    ["mypy", python, ["-m", "mypy", "--cache-dir", join(dir, "mypy")]],
  ];
  for (const [name, file, args] of checks) {
    const { code, text } = await run(file, args, PACKAGE);
    if (code === 0) tally.passed += 1;
    else {
      tally.failed += 1;
      say(`FAILED check: ${name}\n${text}`);
    }
  }
  const { code, text } = await run(python, ["-m", "pytest", "-p", "no:cacheprovider", "--tb=short"], PACKAGE);
  const count = (word: string) =>
    Number(new RegExp(`(\\d+) ${word}`).exec(text.trimEnd().split("\n").at(-1) ?? "")?.[1] ?? 0);
  tally.passed += count("passed");
  tally.skipped += count("skipped");
  tally.failed += Math.max(count("failed") + count("error"), code === 0 ? 0 : 1);
  if (code !== 0) say(`FAILED pytest\n${text}`);
  return tally;
}

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { PoolPlan } from "../core/plan/types.ts";
import { pythonOf } from "../supervisor/python.ts";

/** What `python -m llmpool_hf_cuda.needs` says. */
interface Needs {
  version: string;
  old: boolean;
  missing: string[];
}

const LOCK = fileURLToPath(new URL("../../runtime-image/hf-cuda/requirements.lock", import.meta.url));

/** Rejects with what is missing and the cure, before any process is started, when the plan has hf-cuda and Python here cannot run it. */
export async function checkPython(plan: PoolPlan, env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<void> {
  if (!plan.variants.some(({ backend }) => backend === "hf-cuda")) return;
  const { file, env: own } = pythonOf(env);
  const needs = await new Promise<Needs | string>((resolve) => {
    const options = { env: { ...env, ...own }, signal, timeout: 60_000 };
    execFile(file, ["-m", "llmpool_hf_cuda.needs"], options, (error, out, words) => {
      if (!error) return resolve(JSON.parse(out) as Needs);
      resolve(words.trim().split("\n").at(-1) || error.message);
    });
  });
  signal.throwIfAborted();
  if (typeof needs === "string") throw new Error(`backend hf-cuda: ${file} does not run it: ${needs}\n${cure()}`);
  if (needs.old) throw new Error(`backend hf-cuda: ${file} is Python ${needs.version}, and 3.11 is needed\n${cure()}`);
  if (needs.missing.length > 0)
    throw new Error(`backend hf-cuda: ${file} has no ${needs.missing.join(", ")}\n${cure()}`);
}

function cure(): string {
  if (!existsSync(LOCK)) return "docs/hf-cuda.md says how to install it; LLMPOOL_PYTHON names the Python to use";
  return [
    "make an environment (5 GB) and name its Python:",
    "  python3 -m venv .venv",
    `  .venv/bin/pip install --no-deps --require-hashes -r ${LOCK}`,
    "  export LLMPOOL_PYTHON=$PWD/.venv/bin/python",
  ].join("\n");
}

import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const CHECKS: { name: string; args: string[] }[] = [
  { name: "generated files are current", args: ["scripts/generate.ts", "--check"] },
  { name: "types", args: ["node_modules/typescript/bin/tsc", "-p", "."] },
  { name: "format and lint", args: ["node_modules/@biomejs/biome/bin/biome", "check", "--error-on-warnings", "."] },
  { name: "unused code", args: ["node_modules/knip/bin/knip.js"] },
];

/** Everything that reads the code without running it. All run, whatever fails. */
export async function runChecks(): Promise<{ name: string; ok: boolean; output: string }[]> {
  const results = [];
  for (const { name, args } of CHECKS) results.push({ name, ...(await run(args)) });
  return results;
}

function run(args: string[]): Promise<{ ok: boolean; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(root, args[0] ?? ""), ...args.slice(1)], { cwd: root });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.on("error", reject);
    child.on("close", (code) => resolve({ ok: code === 0, output }));
  });
}

import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { eventually } from "./eventually.ts";

const MAIN = join(import.meta.dirname, "../../src/cli/main.ts");

/** `llmpool supervise` on that file, as in a pod, once it listens. Ended when the test is. */
export async function superviseProcess(file: string, env: NodeJS.ProcessEnv = process.env) {
  const child = spawn(process.execPath, [MAIN, "supervise", "--host", "127.0.0.1", "--port", "0", file], {
    stdio: ["ignore", "ignore", "pipe"],
    env,
  });
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const port = await eventually("it listens", () => {
    const line = said.split("\n").find((text) => text.includes('"msg":"supervising"'));
    return line && (JSON.parse(line) as { port: number }).port;
  });
  return { child, port, said: () => said };
}

import { execFile } from "node:child_process";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { type Finding, fail, ok, warn } from "./finding.ts";

const TIMEOUT_MS = 60_000;

export interface DeviceFacts {
  gpu?: string | false;
  names?: string[];
  error?: string;
}

/** What llama.cpp computes on. `card` is what the system itself says of a GPU, if anything. */
export function judgeDevice(
  facts: DeviceFacts,
  system: { platform: string; arch: string; card: string | undefined },
): Finding {
  const what = `${system.platform}-${system.arch}`;
  if (facts.error !== undefined) {
    const cure = `install the llama.cpp binary for this machine: npm install @node-llama-cpp/${what}; pools with backend stub run without`;
    return fail("device", `llama.cpp does not start: ${facts.error}`, cure);
  }
  if (facts.gpu) return ok("device", [facts.gpu, ...new Set(facts.names)].join(", "));
  if (what === "darwin-arm64") {
    return warn("device", "CPU, although this Mac has Metal", "run it on the Mac itself: containers have no Metal");
  }
  if (system.card) {
    return warn(
      "device",
      `CPU, although there is ${system.card}`,
      "add llama.cpp's GPU binaries: docs/llama-cpp.md says how",
    );
  }
  return ok("device", "CPU");
}

export async function checkDevice(env: NodeJS.ProcessEnv, signal: AbortSignal): Promise<Finding> {
  // Beside this file in the sources and in what is built of them.
  const probe = fileURLToPath(new URL(`./device-probe${extname(import.meta.url)}`, import.meta.url));
  const [said, card] = await Promise.all([
    run(process.execPath, [probe], env, signal),
    run("nvidia-smi", ["--query-gpu=name", "--format=csv,noheader"], env, signal),
  ]);
  let facts: DeviceFacts = { error: said.failure ?? "it ended without an answer" };
  try {
    facts = JSON.parse(said.out.trim().split("\n").at(-1) ?? "") as DeviceFacts;
  } catch {
    // It died before it could say anything: how it died is the answer.
  }
  return judgeDevice(facts, { platform: process.platform, arch: process.arch, card: card.out.trim().split("\n")[0] });
}

function run(file: string, args: string[], env: NodeJS.ProcessEnv, signal: AbortSignal) {
  return new Promise<{ out: string; failure?: string }>((resolve) => {
    execFile(file, args, { env, signal, timeout: TIMEOUT_MS, killSignal: "SIGKILL" }, (error, out) => {
      if (!error) return resolve({ out });
      const how = error.signal ? `it died of ${error.signal}` : `it ended with ${error.code}`;
      resolve({ out, failure: how });
    });
  });
}

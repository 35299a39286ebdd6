// The least that a supervisor takes for an instance: it opens a port, says it is ready, and then does what its warm-up prompt says.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { InstanceConfig, InstanceMessage } from "../../src/api/instance.ts";

const config = JSON.parse(process.env.LLMPOOL_INSTANCE ?? "") as InstanceConfig;
const say = (message: InstanceMessage) => process.send?.(message);
const held: Buffer[] = [];
let healthy = true;

const server = createServer((_, response) => {
  if (healthy) response.end();
});
server.listen(0, "127.0.0.1", () => {
  say({ type: "listening", port: (server.address() as AddressInfo).port, metricsPort: 0 });
  say({ type: "ready", device: "none", modelName: "none", warmupSeconds: 0, tokensPerSecond: 1 });
  act();
});
process.on("disconnect", () => process.exit(0));
process.on("message", (message: { type: string }) => {
  if (message.type === "drain" && config.warmupPrompt !== "stay") process.exit(0);
});
if (config.warmupPrompt === "stay") process.on("SIGTERM", () => {});

function act(): void {
  switch (config.warmupPrompt) {
    case "allocate":
      // Filled, so that every page is really there.
      for (;;) held.push(Buffer.alloc(2 ** 20, 1));
    case "abort":
      process.abort();
      break;
    case "throw":
      throw new TypeError("thrown on purpose");
    case "mute":
      healthy = false;
      break;
    case "fail":
      // Both at once: the message must be heard although the process is gone.
      process.send?.({ type: "failed", reason: "ModelInvalid", message: "no magic" }, () => process.exit(1));
      break;
    case "parent":
      console.error(`child ${spawn("sleep", ["600"], { stdio: ["ignore", "inherit", "inherit"] }).pid}`);
  }
}

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { TokenCheck } from "../../runtime-image/server/auth.ts";
import { DEFAULT_LIMITS, type ServerLimits } from "../../runtime-image/server/limits.ts";
import { InstanceServer } from "../../runtime-image/server/server.ts";
import { createBackend } from "../../runtime-image/stub/backend.ts";
import type { LLMBackend } from "../../src/api/backend.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { Client } from "../conformance/client.ts";
import { tempDir } from "./temp-dir.ts";

export const AUTHORIZATION = "Bearer in-process";

export interface TestServer {
  server: InstanceServer;
  url: string;
  client: Client;
  backend: LLMBackend;
  /** Requests that reached the backend. */
  generated: string[];
}

/** An instance's server in this process, over the stub and ready, with limits that a test can reach. Closed when the test ends. */
export async function instanceServer(
  limits: Partial<ServerLimits> = {},
  sessions = 2,
  requestTimeoutMs = 60_000,
): Promise<TestServer> {
  const dir = await tempDir();
  await writeFile(join(dir, "token"), "in-process");
  const server = new InstanceServer({
    id: "0",
    sessions,
    requestTimeoutMs,
    tokens: await TokenCheck.load(join(dir, "token")),
    clock: systemClock,
    log: silentLogger,
    limits: { ...DEFAULT_LIMITS, ...limits },
  });
  onTestFinished(() => server.close());
  const stub = { ttftMs: 0, interTokenMs: 0, replyTokens: 8, errorRate: 0 };
  const config = { contextTokens: 4_000_000, sessions, sessionTTLSeconds: 600, stateDir: dir, stub };
  const backend = await createBackend(config, { clock: systemClock });
  const generated: string[] = [];
  const counted = Object.create(backend) as LLMBackend;
  counted.generate = (request, options) => {
    generated.push(request.requestId);
    return backend.generate(request, options);
  };
  for (const name of ["stats", "exportSession", "importSession", "deleteSession"] as const)
    counted[name] = backend[name].bind(backend) as never;
  const url = `http://127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
  server.become("Ready", counted);
  return { server, url, client: new Client({ url, token: "in-process" }), backend: counted, generated };
}

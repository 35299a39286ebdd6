import type { InstanceConfig } from "../../src/api/instance.ts";
import type { ProcessSpec } from "../../src/supervisor/spec.ts";

/** A stub instance with the resource's defaults. */
export function instanceConfig(change: Partial<InstanceConfig> = {}): InstanceConfig {
  return {
    pool: "test",
    id: "0",
    variant: "default",
    backend: "stub",
    host: "127.0.0.1",
    port: 0,
    metricsPort: 0,
    tokenFile: "/nonexistent/token",
    cacheDir: "/nonexistent/cache",
    stateDir: "/nonexistent/state",
    contextTokens: 4096,
    sessions: 4,
    requestTimeoutSeconds: 60,
    sessionTTLSeconds: 600,
    warmupPrompt: "test",
    stub: { ttftMs: 0, interTokenMs: 0, replyTokens: 16, errorRate: 0 },
    ...change,
  };
}

export function processSpec(
  id: string,
  change: Partial<Omit<ProcessSpec, "config">> & { config?: Partial<InstanceConfig> } = {},
): ProcessSpec {
  const variant = change.variant ?? "default";
  return {
    id,
    revision: "a",
    drainSeconds: 30,
    ...change,
    variant,
    config: instanceConfig({ id, variant, ...change.config }),
  };
}

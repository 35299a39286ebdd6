import { z } from "zod";
import { InstanceConfig, type InstanceMessage, StartError, type SupervisorMessage } from "../src/api/instance.ts";
import { systemClock } from "../src/lib/clock.ts";
import { messageOf } from "../src/lib/errors.ts";
import { makeLogger } from "../src/lib/logger.ts";
import { createBackend } from "./factory.ts";
import { Instance } from "./instance.ts";

const log = makeLogger("info");

/**
 * The process of one instance: reads its configuration, serves until it is told to end, and ends itself when its supervisor is gone.
 * Exit codes: 0 after a drain, 1 when it could not start.
 */
export async function runInstance(configText: string | undefined): Promise<void> {
  let instance: Instance | undefined;
  try {
    const config = parseConfig(configText);
    instance = await Instance.listen(config, { createBackend, resolveModel, clock: systemClock, log, report });
    endOnRequest(instance, (config.drainSeconds ?? config.requestTimeoutSeconds) * 1000);
    await instance.load();
  } catch (error) {
    if (!(error instanceof StartError)) throw error;
    log.error(error.message, { reason: error.reason });
    await instance?.drain(0);
    await send({ type: "failed", reason: error.reason, message: error.message });
    process.exit(1);
  }
}

/** Throws ConfigInvalid with every problem in one message. */
function parseConfig(text: string | undefined): InstanceConfig {
  let value: unknown;
  try {
    value = JSON.parse(text ?? "");
  } catch {
    throw new StartError(
      "ConfigInvalid",
      "LLMPOOL_INSTANCE must hold the instance's configuration as JSON (InstanceConfig in src/api/instance.ts)",
    );
  }
  const parsed = InstanceConfig.safeParse(value);
  if (!parsed.success)
    throw new StartError("ConfigInvalid", `LLMPOOL_INSTANCE: ${z.prettifyError(parsed.error).replaceAll("\n", " ")}`);
  return parsed.data;
}

/** Signals and the supervisor's words. A second signal ends what still runs. */
function endOnRequest(instance: Instance, graceMs: number): void {
  let ending = false;
  const end = (withinMs: number) => {
    ending = true;
    instance.drain(withinMs).then(
      () => process.exit(0),
      (error: unknown) => {
        log.error("the instance did not close cleanly", { error: messageOf(error) });
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", () => end(ending ? 0 : graceMs));
  process.on("SIGINT", () => end(ending ? 0 : graceMs));
  if (!process.send) return; // nobody's child
  process.on("message", (message: SupervisorMessage) => {
    if (message.type === "threads") instance.setThreads(message.count);
    else end(message.deadlineMs);
  });
  // The supervisor died, perhaps by force: nobody will ever ask for anything again.
  const orphaned = () => {
    end(0);
    setTimeout(() => process.exit(1), 5_000).unref();
  };
  // It may have been killed while this process was still starting: that event comes no more.
  if (process.connected) process.on("disconnect", orphaned);
  else orphaned();
}

async function resolveModel(
  config: InstanceConfig,
  onFraction: (fraction: number) => void,
  signal: AbortSignal,
): Promise<string> {
  if (!config.model) throw new StartError("ConfigInvalid", "model: needed by this backend");
  const models = await import("../src/models/resolve.ts");
  const { path } = await models.resolveModel(config.model.uri, {
    cacheDir: config.cacheDir,
    sha256: config.model.sha256,
    env: process.env,
    log,
    signal,
    onProgress: ({ bytes, total }) => total && onFraction(bytes / total),
  });
  return path;
}

function report(message: InstanceMessage): void {
  void send(message);
}

/** Resolves when the supervisor's end of the channel has it, or nobody listens. */
function send(message: InstanceMessage): Promise<void> {
  return new Promise((resolve) => {
    if (!process.connected || !process.send) return resolve();
    process.send(message, undefined, {}, () => resolve());
  });
}

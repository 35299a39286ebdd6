import { randomBytes } from "node:crypto";
import { chmod, mkdir, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, relative } from "node:path";
import type { Setting } from "../api/environment.ts";
import type { CliIo } from "../cli/io.ts";
import type { Clock } from "../lib/clock.ts";
import { availableCpus } from "../lib/cpus.ts";
import { readText } from "../lib/read-text.ts";
import { defaultCacheDir } from "../models/cache-dir.ts";
import { startRouter } from "../router/server.ts";
import { makeSupervisor } from "../supervisor/start.ts";
import { checkPython } from "./check-python.ts";
import { type Definition, define } from "./definition.ts";
import { devLogger } from "./dev-logger.ts";
import { Edits } from "./edits.ts";
import { followSecrets } from "./follow-secrets.ts";
import { nextSteps, startCommand } from "./hints.ts";
import { liveView } from "./live-view.ts";
import { LocalModels } from "./local-models.ts";
import { type LocalPlaces, localSpecs } from "./local-specs.ts";
import { openStore } from "./open-store.ts";
import { plainView } from "./plain-view.ts";
import { tryPort } from "./port.ts";
import { claimStateDir, readRunFile } from "./run-file.ts";
import { RunningPool } from "./running-pool.ts";
import type { View } from "./view.ts";
import { watchFile } from "./watch-file.ts";

export interface DevOptions {
  /** The LLMPool; followed while it changes. */
  file: string;
  /** 0: the operating system chooses. */
  port: number;
  /** Where this pool keeps everything but its models. One process at a time. */
  stateDir: string;
  secretDirs: ReadonlyMap<string, string>;
  volumes: ReadonlyMap<string, string>;
  /** Of `--set`; they hold for edits too. */
  settings?: readonly Setting[];
}

/** Runs a pool on this machine until `io.signal`, then drains it. Nothing is left but its state directory. */
export async function dev(options: DevOptions, io: CliIo, clock: Clock): Promise<void> {
  const view = io.terminal ? liveView(io.terminal, clock) : plainView(io.stdout);
  try {
    await serve(options, io, clock, view);
  } catch (error) {
    // Ctrl-C while it starts is an end like any other.
    if (!io.signal.aborted) throw error;
  } finally {
    view.close();
  }
}

async function serve(options: DevOptions, io: CliIo, clock: Clock, view: View): Promise<void> {
  const source = relative(io.cwd, options.file);
  const understand = (text: string) => define(text, { source, env: io.env, cwd: io.cwd, ...options });
  const text = await readText(io.cwd, source);
  const definition = understand(text);
  const { plan, secrets } = definition;
  for (const note of definition.notes) view.line(note);

  // Told before anything is made or fetched. Of a pool that already runs here, claiming its directory tells more.
  if (!readRunFile(options.stateDir)) await checkPort(options.port, io);

  await using stack = new AsyncDisposableStack();
  const claim = claimStateDir(options.stateDir, plan.pool);
  stack.defer(() => claim.release());
  const log = devLogger(io, view);
  const home = join(options.stateDir, plan.pool);
  const token = randomBytes(32).toString("hex");
  const tokenFile = join(options.stateDir, "token");
  await writeFile(tokenFile, token, { mode: 0o600 });
  // An older file keeps its own mode.
  await chmod(tokenFile, 0o600);
  stack.defer(() => rm(tokenFile, { force: true }));

  const cacheDir = defaultCacheDir(io.env, process.platform, homedir());
  const models = new LocalModels({ cacheDir, env: io.env, volumes: options.volumes, log, clock });
  const fetchModels = async (wanted: Definition, signal: AbortSignal) => {
    await checkPython(wanted.plan, io.env, signal);
    await models.fetch(wanted, { signal, onProgress: (progress) => view.download(progress) });
  };
  await fetchModels(definition, io.signal);

  const store = await openStore(plan, secrets, join(home, "router"), clock, log);
  stack.defer(() => store.close());
  const supervisor = makeSupervisor({ clock, log, env: io.env, cpus: availableCpus() });
  stack.defer(() => supervisor.close(0));
  const router = await startRouter({
    plan,
    secrets,
    source: supervisor,
    store,
    token,
    host: "127.0.0.1",
    port: options.port,
    clock,
    log,
    writeLine: (json) => view.episode(json),
  });
  stack.defer(() => router.close(0));

  const places: LocalPlaces = { tokenFile, cacheDir, instancesDir: join(home, "instances"), models: models.paths };
  await mkdir(places.instancesDir, { recursive: true });
  const pool = new RunningPool({ definition, supervisor, router, places, view, clock });
  stack.defer(() => pool.close());
  supervisor.apply(localSpecs(plan, places));
  claim.publish(router.url);
  view.line(`pool ${plan.pool} at ${router.url}`);
  pool.whenReady(() => {
    for (const line of nextSteps(plan, router.url, io.env)) view.line(line);
  });

  const edits = new Edits({ understand, fetchModels, pool, view, signal: io.signal });
  const watches = [
    watchFile(
      options.file,
      text,
      clock,
      (next) => edits.take(next),
      (why) => edits.takeAbsence(why),
    ),
    followSecrets({
      ...{ dirs: options.secretDirs, known: secrets, clock },
      onChange: (next) => edits.takeSecrets(next),
      onProblem: (problem) => view.line(`${problem}; the pool goes on with what was read before`),
    }),
  ];
  const stopWatching = () => {
    for (const stop of watches) stop();
  };
  stack.defer(stopWatching);
  await aborted(io.signal);

  stopWatching();
  const graceSeconds = pool.drainSeconds;
  view.line(`draining: open requests have ${graceSeconds} s to finish; Ctrl-C again ends them now`);
  const hurry = () => {
    void router.close(0);
    void supervisor.close(0);
  };
  io.hurry?.addEventListener("abort", hurry, { once: true });
  if (io.hurry?.aborted) hurry();
  // The router first: while it finishes its calls, the instances behind them stay.
  await router.close(graceSeconds * 1000);
  await supervisor.close(graceSeconds * 1000);
  view.line("all instances have ended");
}

/** Rejects with the cure when the router could not listen on this port. */
async function checkPort(port: number, io: CliIo): Promise<void> {
  const failure = await tryPort(port);
  if (!failure) return;
  const why = failure.code === "EADDRINUSE" ? "is taken" : `cannot be used (${failure.message})`;
  // With what was typed after `npm run llmpool --` it would be another line.
  const cure = io.env.npm_lifecycle_event === "start" ? `: ${startCommand(io.env, "--port 8081")}` : "";
  throw new Error(`port ${port} ${why}; choose another with --port${cure}`, { cause: failure });
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

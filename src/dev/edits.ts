import { isDeepStrictEqual } from "node:util";
import { ManifestError, type Problem } from "../api/problem.ts";
import { messageOf } from "../lib/errors.ts";
import type { Definition, LocalSecrets } from "./definition.ts";
import { describeChange } from "./plan-diff.ts";
import type { RunningPool } from "./running-pool.ts";
import type { View } from "./view.ts";

interface EditsParts {
  understand: (text: string) => Definition;
  fetchModels: (wanted: Definition, signal: AbortSignal) => Promise<void>;
  pool: RunningPool;
  view: View;
  signal: AbortSignal;
}

/** Edits of the file, one after another; a newer one makes the one before it give up its downloads. */
export class Edits {
  readonly #parts: EditsParts;
  #current = new AbortController();
  #queue: Promise<void> = Promise.resolve();

  constructor(parts: EditsParts) {
    this.#parts = parts;
  }

  take(text: string): void {
    this.#current.abort(new Error("a newer edit came"));
    this.#current = new AbortController();
    const signal = AbortSignal.any([this.#current.signal, this.#parts.signal]);
    this.#queue = this.#queue.then(() => this.#try(text, signal));
  }

  /** The file cannot be read, for this reason. */
  takeAbsence(why: string): void {
    this.#parts.view.line(`${why}: the pool stays as it was`);
  }

  /** Folders of Secrets hold something else: that counts at once, whatever becomes of the file. */
  takeSecrets(secrets: LocalSecrets): void {
    const { pool, view } = this.#parts;
    const { definition } = pool;
    try {
      const next = { ...definition, secrets: { ...definition.secrets, ...secrets } };
      pool.become(next, changedSecrets(definition.secrets, next.secrets));
    } catch (error) {
      view.line(`edit refused, the pool goes on as it was:\n${messageOf(error)}`);
    }
  }

  async #try(text: string, signal: AbortSignal): Promise<void> {
    const { understand, fetchModels, pool, view } = this.#parts;
    try {
      const next = understand(text);
      refuseWhatNeedsARestart(pool.definition, next);
      const changes = [
        ...describeChange(pool.definition.plan, next.plan),
        ...changedSecrets(pool.definition.secrets, next.secrets),
      ];
      await fetchModels(next, signal);
      signal.throwIfAborted();
      // Folders of Secrets may have changed during the download.
      pool.become({ ...next, secrets: understand(text).secrets }, changes.length > 0 ? changes : ["nothing to do"]);
    } catch (error) {
      if (signal.aborted) return;
      view.line(`edit refused, the pool goes on as it was:\n${messageOf(error)}`);
    }
  }
}

/** Never what is in them. */
function changedSecrets(before: LocalSecrets, after: LocalSecrets): string[] {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...names]
    .filter((name) => !isDeepStrictEqual(before[name], after[name]))
    .map((name) => `Secret ${name}: changed`);
}

/** The name is in paths and the store is open: these stay for a process's life. */
function refuseWhatNeedsARestart(now: Definition, next: Definition): void {
  const problems: Problem[] = [];
  if (now.plan.pool !== next.plan.pool) {
    problems.push({
      path: "metadata.name",
      message: `is ${now.plan.pool} while this pool runs: start another for another name`,
    });
  }
  if (JSON.stringify(now.plan.router.store) !== JSON.stringify(next.plan.router.store)) {
    problems.push({
      path: "spec.store",
      message: "cannot change while the pool runs: end llmpool dev and start it again",
    });
  }
  if (now.plan.router.sessionTTLSeconds !== next.plan.router.sessionTTLSeconds) {
    problems.push({
      path: "spec.sessionTTLSeconds",
      message: "cannot change while the pool runs: end llmpool dev and start it again",
    });
  }
  if (problems.length > 0) throw new ManifestError("edit", problems);
}

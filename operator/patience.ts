import { isTemporary } from "../src/kube/errors.ts";
import type { Problem } from "./apply.ts";

/** How long a lost race or a troubled server is no news, in milliseconds. */
const PATIENCE_MS = 10_000;

/** Keeps from people what is likely to pass by itself: one refused write among many makes no serving pool unready. */
export class Patience {
  /** Since when objects of a pool are refused for reasons that may pass. */
  readonly #since = new Map<string, number>();

  /** The problems that are to be told. @param now on the clock */
  lasting(key: string, problems: readonly Problem[], now: number): readonly Problem[] {
    if (!problems.some(mayPass)) {
      this.#since.delete(key);
      return problems;
    }
    const since = this.#since.get(key) ?? now;
    this.#since.set(key, since);
    return now - since < PATIENCE_MS ? problems.filter((problem) => !mayPass(problem)) : problems;
  }

  /** How long until what is kept back is to be told, in milliseconds; undefined: nothing is. */
  tellsInMs(key: string, now: number): number | undefined {
    const since = this.#since.get(key);
    return since === undefined || now - since >= PATIENCE_MS ? undefined : since + PATIENCE_MS - now;
  }

  forget(key: string): void {
    this.#since.delete(key);
  }
}

const mayPass = ({ error }: Problem): boolean => isTemporary(error);

import type { Binding } from "../../core/store.ts";
import { MOST_BINDINGS } from "../embedded/bindings.ts";

/** Where this router last saw sessions, least recently used first. It may be out of date: the admission confirms it. */
export class KnownBindings {
  readonly #byKey = new Map<string, { binding: Binding; at: number }>();
  readonly #now: () => number;
  readonly #ttlMs: number;

  constructor(now: () => number, ttlMs: number) {
    this.#now = now;
    this.#ttlMs = ttlMs;
  }

  find(tenant: string, key: string): Binding | undefined {
    const known = this.#byKey.get(key);
    if (known?.binding.tenant !== tenant) return undefined;
    return this.#now() - known.at < this.#ttlMs ? known.binding : undefined;
  }

  set(binding: Binding): void {
    this.#byKey.delete(binding.key);
    this.#byKey.set(binding.key, { binding, at: this.#now() });
    const [oldest] = this.#byKey.keys();
    if (this.#byKey.size > MOST_BINDINGS && oldest !== undefined) this.#byKey.delete(oldest);
  }

  drop(key: string): void {
    this.#byKey.delete(key);
  }
}

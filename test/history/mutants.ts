import { createHash } from "node:crypto";
import type { AdmitRequest, StateStore } from "../../src/core/store.ts";
import { SCRIPTS, type Script } from "../../src/store/redis/scripts/scripts.ts";
import type { Random } from "./random.ts";

/** Scripts that get one thing wrong: what they have in place of what they should. */
export const SCRIPT_MUTANTS: Readonly<Record<string, [right: string, wrong: string]>> = {
  "extended with each report": ["now >= e.deadline - extendMs and moved", "moved"],
};

/** Puts the mutant into the scripts of this process. */
export function mutateScripts([right, wrong]: [string, string]): void {
  for (const script of Object.values<Script>(SCRIPTS)) {
    script.text = script.text.replace(right, wrong);
    script.sha = createHash("sha1").update(script.text).digest("hex");
  }
}

type Mutate = (store: StateStore, random: Random) => Partial<StateStore>;

/** Stores that get one thing wrong, each a bug that was there or could be: whoever looks for bugs has to find them. */
export const MUTANTS: Readonly<Record<string, Mutate>> = {
  "settle skipped": (store, random) => ({
    settle: async (id, usage) => (random.chance(0.1) ? undefined : store.settle(id, usage)),
  }),
  "settled twice": (store, random) => ({
    async settle(id, usage) {
      await store.settle(id, usage);
      if (usage === null || !random.chance(0.1)) return;
      const requestId = `${id}_again`;
      await store.admit({ ...POOL, requestId, worstCase: 1, minimum: 1 });
      await store.settle(requestId, usage);
    },
  }),
  "settled by nobody's count": (store, random) => ({
    settle: (id, usage) => store.settle(id, usage && random.chance(0.1) ? { ...usage, completionTokens: 0 } : usage),
  }),
  "reserved late": (store, random) => ({
    async admit(request) {
      if (!random.chance(0.1)) return store.admit(request);
      setTimeout(() => void store.admit(request).catch(() => {}), 50);
      return { ok: true, reserved: request.worstCase, instance: request.instance, budgets: [] };
    },
  }),
  "reserved too little": (store, random) => ({
    async admit(request) {
      const less = { ...request, worstCase: request.minimum };
      const admission = await store.admit(random.chance(0.1) ? less : request);
      return admission.ok && !request.clamp ? { ...admission, reserved: request.worstCase } : admission;
    },
  }),
  "reserved in one budget of several": (store) => ({
    admit: ({ claims, ...request }) => store.admit({ ...request, claims: claims.slice(0, 1) }),
  }),
};

const POOL: Omit<AdmitRequest, "requestId" | "worstCase" | "minimum"> = {
  ...{ tenant: "", instance: "0", clamp: false },
  claims: [{ scope: "pool", id: "pool", limit: 1_000_000_000, windowSeconds: 86_400 }],
};

/** The store, but for what the mutant does instead. */
export function mutated(store: StateStore, name: string, random: Random): StateStore {
  const own = MUTANTS[name]?.(store, random);
  if (!own) throw new Error(`there is no mutant ${name}`);
  return new Proxy(store, {
    get(target, method) {
      const value: unknown = own[method as keyof StateStore] ?? Reflect.get(target, method);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

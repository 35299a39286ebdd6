import type { PoolPlan } from "../core/plan/types.ts";
import type { ResolveOptions } from "../models/resolve.ts";
import { resolveModel } from "../models/resolve.ts";
import type { Definition } from "./definition.ts";
import { modelKey } from "./local-specs.ts";

/** Models of a plan that are on this machine, by `modelKey`; each is fetched once, before any instance asks for it. */
export class LocalModels {
  readonly #options: Omit<ResolveOptions, "signal" | "sha256" | "token" | "onProgress">;
  readonly #paths = new Map<string, string>();

  constructor(options: Omit<ResolveOptions, "signal" | "sha256" | "token" | "onProgress">) {
    this.#options = options;
  }

  get paths(): ReadonlyMap<string, string> {
    return this.#paths;
  }

  /** Rejects with what is wrong and the cure, or with the signal's reason. What is here already is not looked at again. */
  async fetch(
    { plan, secrets }: Pick<Definition, "plan" | "secrets">,
    {
      signal,
      onProgress,
    }: {
      signal: AbortSignal;
      onProgress: (progress: Parameters<NonNullable<ResolveOptions["onProgress"]>>[0] | undefined) => void;
    },
  ): Promise<void> {
    for (const { model, modelSecret } of distinctModels(plan)) {
      const key = modelKey(model);
      if (this.#paths.has(key)) continue;
      const token = modelSecret && secrets[modelSecret.name]?.[modelSecret.key]?.toString("utf8").trim();
      try {
        const { path } = await resolveModel(model.uri, {
          ...this.#options,
          sha256: model.sha256,
          ...(token !== undefined && { token }),
          onProgress,
          signal,
        });
        this.#paths.set(key, path);
      } finally {
        onProgress(undefined);
      }
    }
  }
}

function distinctModels(plan: PoolPlan) {
  const models = plan.variants.flatMap(({ instances: [first] }) =>
    first?.model ? [{ model: first.model, modelSecret: first.modelSecret }] : [],
  );
  return [...new Map(models.map((one) => [modelKey(one.model), one])).values()];
}

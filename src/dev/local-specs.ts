import { join } from "node:path";
import { instanceConfig } from "../core/plan/instance-config.ts";
import { type ProcessSpec, processSpec } from "../core/plan/process-spec.ts";
import type { InstancePlan, PoolPlan } from "../core/plan/types.ts";

/** Where things are on this machine. */
export interface LocalPlaces {
  tokenFile: string;
  cacheDir: string;
  /** Each instance keeps its saved KV caches in a folder of its id. */
  instancesDir: string;
  /** Resolved models, by `modelKey`. */
  models: ReadonlyMap<string, string>;
}

/** The plan as processes of this machine: the loopback address, free ports, models that are already here. */
export function localSpecs(plan: PoolPlan, places: LocalPlaces): ProcessSpec[] {
  return plan.variants.flatMap(({ modelName, instances }) =>
    instances.map((instance) => localSpec(plan.pool, modelName, instance, places)),
  );
}

/** Instances with equal keys share one download. */
export const modelKey = ({ uri, sha256 }: { uri: string; sha256: string }): string => `${uri} ${sha256}`;

function localSpec(pool: string, modelName: string, instance: InstancePlan, places: LocalPlaces): ProcessSpec {
  const { id, model } = instance;
  const config = instanceConfig(pool, modelName, instance, {
    host: "127.0.0.1",
    port: 0,
    metricsPort: 0,
    tokenFile: places.tokenFile,
    cacheDir: places.cacheDir,
    stateDir: join(places.instancesDir, id),
    modelPath: model && places.models.get(modelKey(model)),
  });
  return processSpec(instance, config);
}

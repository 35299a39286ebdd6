import type { V1Volume, V1VolumeMount } from "@kubernetes/client-node";
import type { InstancePlan } from "../../src/core/plan/types.ts";
import type { Wire } from "../../src/kube/object.ts";
import { namesOf } from "./names.ts";
import { PATHS } from "./pod.ts";
import type { RenderSettings } from "./settings.ts";
import type { RenderedVariant } from "./variant.ts";

interface Mounted {
  volume: Wire<V1Volume>;
  mount: Wire<V1VolumeMount>;
}

const PVC_URI = /^pvc:\/\/([^/]+)\/(.+)$/;

/** Where the model lies in the pod: that of a `pvc://` URI, or one that a loader has put on the cache volume. */
export function modelPathOf({ load }: RenderedVariant, { model }: InstancePlan, { facts }: RenderSettings) {
  const [, claim, path] = PVC_URI.exec(model?.uri ?? "") ?? [];
  if (claim !== undefined) return `${PATHS.claims}/${claim}/${path}`;
  const known = load && facts?.get(load.factsName);
  return known && `${PATHS.cache}/${known.path}`;
}

/** The claim of a `pvc://` URI. */
export const claimOf = (uri: string | undefined): string | undefined => PVC_URI.exec(uri ?? "")?.[1];

/** What an instance's pod mounts, and where. */
export function instanceVolumes(variant: RenderedVariant): Mounted[] {
  const { pool, plan, model, packed, cache } = variant;
  const names = namesOf(pool);
  const claim = claimOf(model.model?.uri);
  return [
    {
      volume: { name: "token", secret: { secretName: names.token, defaultMode: 0o440 } },
      mount: { name: "token", mountPath: PATHS.token, readOnly: true },
    },
    { volume: { name: "state", emptyDir: {} }, mount: { name: "state", mountPath: PATHS.state } },
    { volume: { name: "tmp", emptyDir: {} }, mount: { name: "tmp", mountPath: "/tmp" } },
    {
      volume: cache
        ? { name: "cache", persistentVolumeClaim: { claimName: cache.claimName } }
        : { name: "cache", emptyDir: {} },
      // A loader fills the volume; pods write only what is their own.
      mount: { name: "cache", mountPath: PATHS.cache, ...(cache && { readOnly: true }) },
    },
    ...(claim === undefined
      ? []
      : [
          {
            volume: { name: "model", persistentVolumeClaim: { claimName: claim, readOnly: true } },
            mount: { name: "model", mountPath: `${PATHS.claims}/${claim}`, readOnly: true },
          },
        ]),
    ...(packed
      ? [
          {
            // Its keys change with the scale, in pods that run: no subPath, which would freeze them.
            volume: { name: "instances", configMap: { name: names.variant(plan.name), defaultMode: 0o444 } },
            mount: { name: "instances", mountPath: PATHS.instances, readOnly: true },
          },
        ]
      : []),
    // CUDA's processes exchange data there; a container's default is 64 MiB.
    ...(plan.gpu
      ? [
          {
            volume: { name: "shm", emptyDir: { medium: "Memory", sizeLimit: "1Gi" } },
            mount: { name: "shm", mountPath: "/dev/shm" },
          },
        ]
      : []),
  ];
}

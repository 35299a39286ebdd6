import { chmod, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Api } from "./api.ts";

/** The storage class of the test cluster, and its default. Every access mode works: the one node is its only user. */
const CLASS = "test-directory";

interface Claim {
  metadata: { name: string; namespace: string; uid: string };
  spec: { storageClassName?: string; accessModes: string[]; resources: { requests: { storage: string } } };
  status?: { phase?: string };
}

interface Volume {
  metadata: { name: string; annotations?: Record<string, string> };
  status?: { phase?: string };
}

/** Makes the storage class that `provision` serves. */
export async function makeStorageClass(api: Api): Promise<void> {
  await api.call("POST", "/apis/storage.k8s.io/v1/storageclasses", {
    metadata: { name: CLASS, annotations: { "storageclass.kubernetes.io/is-default-class": "true" } },
    provisioner: "llmpool.test/directory",
    volumeBindingMode: "Immediate",
  });
}

/** Gives each waiting claim a folder below `dir` as its volume, and removes those whose claim is gone; for as long as the process lives. */
export async function provision(api: Api, dir: string): Promise<never> {
  for (;;) {
    // One that fails is tried again; an API server that does not answer is about to be removed.
    await serve(api, dir).catch(() => {});
    await sleep(300);
  }
}

async function serve(api: Api, dir: string): Promise<void> {
  const claims = (await api.call("GET", "/api/v1/persistentvolumeclaims")) as { items: Claim[] };
  const volumes = (await api.call("GET", "/api/v1/persistentvolumes")) as { items: Volume[] };
  const names = new Set(volumes.items.map((v) => v.metadata.name));
  for (const claim of claims.items) {
    const name = `pvc-${claim.metadata.uid}`;
    if (claim.spec.storageClassName !== CLASS || claim.status?.phase !== "Pending" || names.has(name)) continue;
    const path = join(dir, name);
    await mkdir(path, { recursive: true });
    await chmod(path, 0o777); // pods are not root, and a kubelet does not change the owner of a host's folder
    await api.call("POST", "/api/v1/persistentvolumes", volumeFor(claim, name, path));
  }
  for (const { metadata, status } of volumes.items) {
    if (metadata.annotations?.["pv.kubernetes.io/provisioned-by"] !== "llmpool.test/directory") continue;
    if (status?.phase !== "Released") continue;
    await rm(join(dir, metadata.name), { recursive: true, force: true });
    await api.call("DELETE", `/api/v1/persistentvolumes/${metadata.name}`);
  }
}

function volumeFor({ metadata, spec }: Claim, name: string, path: string): unknown {
  const { namespace, uid } = metadata;
  return {
    metadata: { name, annotations: { "pv.kubernetes.io/provisioned-by": "llmpool.test/directory" } },
    spec: {
      storageClassName: CLASS,
      accessModes: spec.accessModes,
      capacity: { storage: spec.resources.requests.storage },
      persistentVolumeReclaimPolicy: "Delete",
      claimRef: { apiVersion: "v1", kind: "PersistentVolumeClaim", name: metadata.name, namespace, uid },
      hostPath: { path, type: "Directory" },
    },
  };
}

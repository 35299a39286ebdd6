import type { ModelFacts } from "../../src/api/model-facts.ts";
import type { Client } from "../../src/kube/client.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { RESOURCES } from "../../src/kube/resource.ts";

/** What a loader tells of a model of 4.9 GB. */
export const FACTS: ModelFacts = {
  path: "hf/org/repo/abc/files/m.gguf",
  format: "gguf",
  bytes: 4_900_000_000,
  sha256: "ab".repeat(32),
  layers: 32,
  kvHeads: 8,
  headSize: 128,
  kvBytesPerToken: 131_072,
};

type LoaderPod = KubeObject & { spec: { containers: { image: string }[] } };

/** Lets every loader on a fake node succeed, which KWOK does not, until the signal fires. */
export async function playLoaders(client: Client, signal: AbortSignal): Promise<void> {
  const running = { labelSelector: "app.kubernetes.io/component=loader", fieldSelector: "status.phase=Running" };
  while (!signal.aborted) {
    const { items } = await client.list<LoaderPod>(RESOURCES.pods, running);
    for (const { metadata, spec } of items) {
      const ended = { terminated: { exitCode: 0, reason: "Completed", message: JSON.stringify(FACTS) } };
      const image = spec.containers[0]?.image;
      const container = { name: "loader", image, imageID: "", ready: false, restartCount: 0, state: ended };
      const conditions = [{ type: "Ready", status: "False" }];
      const status = { phase: "Succeeded", conditions, containerStatuses: [container] };
      const { namespace, name } = metadata;
      const place = { namespace, name, subresource: "status" };
      // One that was deleted meanwhile needs no end.
      await client.merge(RESOURCES.pods, place, { status }).catch(() => {});
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

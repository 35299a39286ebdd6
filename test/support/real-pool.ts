import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import type { LLMPoolStatus } from "../../src/api/llmpool.ts";
import { API_VERSION, KIND } from "../../src/api/names.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import type { TestCluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
import { smolModel } from "./model.ts";

export type PoolObject = KubeObject & { status?: LLMPoolStatus };
export type PodObject = KubeObject & {
  status: {
    podIP?: string;
    conditions?: { type: string; status: string }[];
    containerStatuses?: { containerID: string; restartCount: number }[];
  };
};

/** What came back for one call. */
export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: {
    choices?: { message: { content: string } }[];
    usage?: { completion_tokens: number };
    error?: { code: string };
  };
}

const CALL = `
const [url, headers, body] = process.argv.slice(1);
const response = await fetch(url, { method: "POST", headers: JSON.parse(headers), body });
console.log(JSON.stringify({ status: response.status, headers: Object.fromEntries(response.headers), body: await response.json() }));`;

/** Pools whose pods run on the real node, in one namespace that holds them to the restricted Pod Security Standard. */
export class RealPools {
  readonly #cluster: TestCluster;
  readonly namespace: string;

  constructor(cluster: TestCluster, namespace: string) {
    this.#cluster = cluster;
    this.namespace = namespace;
  }

  /** Enforces the standard, and starts a pod to call from. */
  async prepare(): Promise<void> {
    await this.kubectl("label", "namespace", this.namespace, "pod-security.kubernetes.io/enforce=restricted");
    await this.#cluster.apply([clientPod(this.#cluster.baseImage)], this.namespace);
    await this.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s");
  }

  /** Puts the real small model into a claim, as `pvc://<claim>/smollm2.gguf`. */
  async bringModel(claim: string): Promise<void> {
    const spec = { accessModes: ["ReadWriteMany"], resources: { requests: { storage: "1Gi" } } };
    const object = { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: claim }, spec };
    await this.#cluster.apply([object], this.namespace);
    await this.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", `pvc/${claim}`, "--timeout=30s");
    const volume = (await this.#cluster.get<{ spec: { volumeName: string } }>("pvc", claim, this.namespace)).spec;
    // A volume of this cluster is a folder of this machine.
    const { spec: there } = await this.#cluster.get<{ spec: { hostPath: { path: string } } }>("pv", volume.volumeName);
    await copyFile(await smolModel(), join(there.hostPath.path, "smollm2.gguf"));
  }

  kubectl(...args: string[]): Promise<string> {
    return this.#cluster.kubectl(["--namespace", this.namespace, ...args]);
  }

  async apply(name: string, spec: object): Promise<void> {
    await this.#cluster.apply([{ apiVersion: API_VERSION, kind: KIND, metadata: { name }, spec }], this.namespace);
  }

  /** Waits until the pool is Ready, and at rest, as its newest edit wants it. */
  untilReady(name: string): Promise<PoolObject> {
    return eventually(
      `pool ${name} is Ready`,
      async () => {
        const pool = await this.#cluster.get<PoolObject>("llmp", name, this.namespace);
        const now = Object.fromEntries(pool.status?.conditions?.map(({ type, status }) => [type, status]) ?? []);
        expect(pool.status?.observedGeneration).toBe(pool.metadata.generation);
        expect(now, JSON.stringify(pool.status)).toMatchObject({ Ready: "True", Progressing: "False" });
        return pool;
      },
      110_000,
    );
  }

  /** Pods of the pool's instances, by name. */
  async instancePods(name: string): Promise<Map<string, PodObject>> {
    const selector = `llmpool.dev/pool=${name},app.kubernetes.io/component=instance`;
    const text = await this.kubectl("get", "pods", "--selector", selector, "--output", "json");
    return new Map((JSON.parse(text) as { items: PodObject[] }).items.map((pod) => [pod.metadata.name, pod]));
  }

  /** Calls from a pod of the cluster, by name. */
  async callFromPod(url: string, body: object, headers: Record<string, string> = {}): Promise<Answer> {
    const sent = [url, JSON.stringify({ "content-type": "application/json", ...headers }), JSON.stringify(body)];
    const node = ["node", "--input-type=module", "--eval", CALL, "--", ...sent];
    return JSON.parse(await this.kubectl("exec", "client", "--", ...node)) as Answer;
  }

  /** Address of the pool's Service, for calls from this machine, once it leads to the router: kube-proxy follows a pod that got ready, a moment later. */
  async address(name: string): Promise<string> {
    const { spec } = await this.#cluster.get<{ spec: { clusterIP: string } }>("service", name, this.namespace);
    const address = `http://${spec.clusterIP}:8080`;
    await eventually("the Service leads to the router", async () => (await fetch(`${address}/healthz`)).ok);
    return address;
  }

  /** `kind/name` of every object in the namespace but Events, which only tell what was. */
  async everything(): Promise<string[]> {
    const kinds = (await this.#cluster.kubectl(["api-resources", "--verbs=list", "--namespaced", "--output=name"]))
      .trim()
      .split("\n")
      .filter((kind) => !/^events(\.|$)/.test(kind));
    return (await this.kubectl("get", kinds.join(), "--output=name")).trim().split("\n").sort();
  }
}

/** Calls a router from this machine. Rejects when there is nobody to call. */
export async function callFromHere(
  address: string,
  body: object,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await fetch(`${address}/v1/chat/completions`, {
    method: "POST",
    // On a connection of its own: one that is open outlives a router that is no longer ready.
    headers: { "content-type": "application/json", connection: "close", ...headers },
    body: JSON.stringify(body),
  });
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: (await response.json()) as Answer["body"],
  };
}

export const isReady = ({ status }: PodObject): boolean =>
  status.conditions?.some(({ type, status: value }) => type === "Ready" && value === "True") === true;

/** A pod that only waits, in which a test runs what it wants. */
const clientPod = (image: string) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "client" },
  spec: {
    terminationGracePeriodSeconds: 1,
    automountServiceAccountToken: false,
    securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: "RuntimeDefault" } },
    containers: [
      {
        name: "client",
        image,
        imagePullPolicy: "Never",
        command: ["sleep", "infinity"],
        securityContext: {
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ["ALL"] },
        },
      },
    ],
  },
});

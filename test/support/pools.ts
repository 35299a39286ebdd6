import { expect } from "vitest";
import type { LLMPoolStatus } from "../../src/api/llmpool.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import type { TestCluster } from "./cluster.ts";
import { conditionOf } from "./conditions.ts";
import { eventually } from "./eventually.ts";
import { operatorAccount, startOperator, type TestOperator } from "./operator.ts";

export type Pool = KubeObject & { status?: LLMPoolStatus };

/** A pool `apex` of two stubs. */
export const stub = (spec: object = {}) => ({
  apiVersion: "llmpool.dev/v1alpha1",
  kind: "LLMPool",
  metadata: { name: "apex" },
  spec: { backend: "stub", instances: 2, drainSeconds: 0, store: { ephemeral: true }, ...spec },
});

/**
 * An operator of one namespace with the rights that the chart gives it there, in this process, which ends with the test. Returns how to
 * stop it. @param options.wide one of all namespaces, which may see nodes
 */
export async function operate(
  cluster: TestCluster,
  namespace: string,
  options: Partial<TestOperator> & { wide?: boolean } = {},
): Promise<() => Promise<void>> {
  const { wide = false, ...rest } = options;
  const kubeconfig = await operatorAccount(cluster, namespace, wide ? "" : namespace);
  return startOperator({ kubeconfig, ownNamespace: namespace, ...(!wide && { namespace }), ...rest });
}

/** Waits until `check` no longer throws. */
export const until = (what: string, check: () => Promise<void>, timeoutMs?: number) =>
  eventually(
    what,
    async () => {
      await check();
      return true;
    },
    timeoutMs,
  );

/** What tests ask of the pool `apex` of one namespace. */
export const pools = (cluster: TestCluster) => {
  const poolOf = (namespace: string) => cluster.get<Pool>("llmp", "apex", namespace);
  const list = async (kinds: string, namespace: string, ...more: string[]) => {
    const args = ["get", kinds, "--namespace", namespace, "--output", "json", ...more];
    return (JSON.parse(await cluster.kubectl(args)) as { items: KubeObject[] }).items;
  };
  return {
    poolOf,

    /** Waits until a condition has this status (and reason) for the pool's newest generation, and returns the pool. */
    untilCondition: (
      namespace: string,
      type: string,
      status: "True" | "False" | "Unknown",
      reason?: string,
      timeoutMs?: number,
    ) =>
      eventually(
        `${type} ${status} ${reason ?? ""}`,
        async () => {
          const pool = await poolOf(namespace);
          const found = conditionOf(pool, type);
          expect([found?.status, found?.observedGeneration]).toEqual([status, pool.metadata.generation]);
          if (reason !== undefined) expect(found?.reason, found?.message).toBe(reason);
          return pool;
        },
        timeoutMs,
      ),

    /** `kind/name` of everything that the pool owns. */
    async ownedObjects(namespace: string): Promise<string[]> {
      const kinds =
        "serviceaccounts,roles,rolebindings,services,persistentvolumeclaims,networkpolicies,configmaps,jobs,statefulsets,deployments,poddisruptionbudgets,secrets";
      return (await list(kinds, namespace))
        .filter(({ metadata }) => metadata.ownerReferences?.some(({ kind }) => kind === "LLMPool"))
        .map(({ kind, metadata }) => `${kind}/${metadata.name}`)
        .sort();
    },

    async podUids(namespace: string, selector = "app.kubernetes.io/component=instance"): Promise<Map<string, string>> {
      const pods = await list("pods", namespace, "--selector", selector);
      return new Map(pods.map(({ metadata }) => [metadata.name, metadata.uid ?? ""]));
    },

    /** `type reason: note` of the Events of the pool. */
    async eventsOf(namespace: string): Promise<string[]> {
      const events = await list("events.events.k8s.io", namespace);
      return (events as (KubeObject & { type: string; reason: string; note: string; regarding?: { kind?: string } })[])
        .filter(({ regarding }) => regarding?.kind === "LLMPool")
        .map(({ type, reason, note }) => `${type} ${reason}: ${note}`);
    },
  };
};

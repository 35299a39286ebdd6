import { fileURLToPath } from "node:url";
import { loadAll } from "js-yaml";
import { onTestFinished } from "vitest";
import type { KubeObject } from "../../src/kube/object.ts";
import type { TestCluster } from "./cluster.ts";

/** Folder of the chart. */
export const CHART = fileURLToPath(new URL("../../helm/llmpool", import.meta.url));

/** Flags of helm that give these values. */
export const valueFlags = (values: Readonly<Record<string, unknown>>): string[] =>
  Object.entries(values).flatMap(([path, value]) => ["--set-json", `${path}=${JSON.stringify(value)}`]);

/** What the chart makes of values, by `Kind/name`. */
export async function rendered(
  cluster: TestCluster,
  values: Readonly<Record<string, unknown>> = {},
  namespace = "llmpool-system",
): Promise<Map<string, KubeObject>> {
  const args = ["template", "llmpool", CHART, "--namespace", namespace, ...valueFlags(values)];
  const objects = loadAll(await cluster.helm(args)) as (KubeObject | null)[];
  return new Map(objects.flatMap((one) => (one ? [[`${one.kind}/${one.metadata.name}`, one] as const] : [])));
}

/** Installs the chart as `llmpool` until the test ends, or `atEnd` says so; the kind that it keeps goes too. */
export async function install(
  cluster: TestCluster,
  namespace: string,
  values: Readonly<Record<string, unknown>> = {},
  flags: readonly string[] = [],
  atEnd: (undo: () => Promise<void>) => void = onTestFinished,
): Promise<void> {
  atEnd(async () => {
    await cluster.helm(["uninstall", "llmpool", "--namespace", namespace, "--ignore-not-found"]);
    await cluster.kubectl(["delete", "crd", "llmpools.llmpool.dev", "--ignore-not-found"]);
  });
  await cluster.helm(["install", "llmpool", CHART, "--namespace", namespace, ...valueFlags(values), ...flags]);
}

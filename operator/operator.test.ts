import { expect, onTestFinished, test } from "vitest";
import { makeKubeMetrics } from "../src/kube/metrics.ts";
import { systemClock } from "../src/lib/clock.ts";
import { silentLogger } from "../src/lib/logger.ts";
import { makeMetrics } from "../src/lib/metrics.ts";
import { eventually } from "../test/support/eventually.ts";
import { FakeKube } from "../test/support/fake-kube.ts";
import { runOperator } from "./operator.ts";
import { defaultImages } from "./render/settings.ts";

test("a kind PodMonitor that the cluster has and nobody can list keeps no operator from its work", async () => {
  const kube = await FakeKube.start();
  const end = new AbortController();
  const monitors = "/apis/monitoring.coreos.com/v1";
  kube.fail({
    when: ({ path }) => path === monitors,
    what: { raw: JSON.stringify({ resources: [{ name: "podmonitors" }] }) },
  });
  kube.fail({ when: ({ path }) => path.endsWith("/podmonitors"), what: { status: 403, reason: "Forbidden" } });
  const metrics = makeMetrics();
  const synced = Promise.withResolvers<void>();
  const ended = runOperator(
    {
      credentials: kube.credentials,
      version: "test",
      images: defaultImages("test"),
      ownNamespace: "default",
      namespace: "default",
      identity: "one",
      clock: systemClock,
      random: Math.random,
      log: silentLogger,
      metrics: makeKubeMetrics(metrics),
    },
    end.signal,
    synced.resolve,
  );
  onTestFinished(async () => {
    end.abort(new Error("the test is over"));
    await ended;
    await kube.close();
  });
  await eventually("it has tried to list them", () => kube.seen.some(({ path }) => path.endsWith("/podmonitors")));
  await synced.promise;
  await eventually("it leads", () => kube.store.list("coordination.k8s.io/v1/leases").length > 0);
  expect(await metrics.expose()).toContain('informer_synced{resource="podmonitors"} 0');
});

import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { expect, onTestFinished } from "vitest";
import { clusterForTests } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { tempDir } from "../support/temp-dir.ts";

const cluster = await clusterForTests();

/** A container that meets the restricted Pod Security Standard. */
const container = (command: string[], extra: object = {}) => ({
  name: "main",
  image: cluster.baseImage,
  imagePullPolicy: "Never",
  command,
  securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
  ...extra,
});

const restricted = {
  securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: "RuntimeDefault" } },
};

const SERVER = `require("node:http").createServer((_, res) => res.end("from " + process.env.HOSTNAME)).listen(8080)`;

const pod = (name: string, main: object, extra: object = {}) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name },
  spec: { ...restricted, terminationGracePeriodSeconds: 1, containers: [main], ...extra },
});

/** Runs JavaScript in a pod and returns what it prints. */
function inPod(name: string, namespace: string, script: string): Promise<string> {
  return cluster.kubectl(["exec", name, "--namespace", namespace, "--", "node", "--eval", script]);
}

cluster.nodeTest("a Deployment's pods answer over their Service, by its name", async () => {
  const namespace = await cluster.namespace();
  await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
  const labels = { app: "web" };
  const probe = { httpGet: { path: "/", port: 8080 }, periodSeconds: 1 };
  const deployment = {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "web" },
    spec: {
      replicas: 2,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          ...restricted,
          terminationGracePeriodSeconds: 1,
          containers: [container(["node", "--eval", SERVER], { readinessProbe: probe })],
        },
      },
    },
  };
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "web" },
    spec: { selector: labels, ports: [{ port: 8080 }] },
  };
  await cluster.apply([deployment, service, pod("client", container(["sleep", "infinity"]))], namespace);
  await cluster.kubectl(["rollout", "status", "deployment/web", "--namespace", namespace, "--timeout=100s"]);
  await cluster.kubectl(["wait", "--for=condition=Ready", "pod/client", "--namespace", namespace, "--timeout=60s"]);
  const url = `http://web.${namespace}.svc:8080`;
  // Each on a connection of its own: a Service chooses a pod for a connection, not for a request.
  const ask = `fetch("${url}", { headers: { connection: "close" } }).then((response) => response.text())`;
  const script = `Promise.all(Array.from({ length: 20 }, () => ${ask})).then((all) => console.log(all.join()))`;
  const pods = ["get", "pods", "--selector=app=web", "--output", "jsonpath={.items[*].metadata.name}"];
  const names = (await cluster.kubectl([...pods, "--namespace", namespace])).split(" ");
  const seen = new Set<string>();
  // A pod is Ready a moment before the node sends it its share.
  await eventually("both pods have answered", async () => {
    for (const answer of (await inPod("client", namespace, script)).trim().split(",")) seen.add(answer);
    return seen.size === names.length;
  });
  expect(seen).toEqual(new Set(names.map((name) => `from ${name}`)));
  // A test reaches a Service as its pods do.
  const { spec } = await cluster.get<{ spec: { clusterIP: string } }>("service", "web", namespace);
  expect(await (await fetch(`http://${spec.clusterIP}:8080`)).text()).toMatch(/^from web-/);
});

cluster.nodeTest("a pod reaches this machine and the API server", async () => {
  const namespace = await cluster.namespace();
  const server = createServer((_, response) => response.end("the test")).listen(0, cluster.hostAddress);
  onTestFinished(() => void server.close());
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  if (typeof address !== "object" || !address) throw new Error("the server has no port");
  await cluster.apply([pod("client", container(["sleep", "infinity"]))], namespace);
  await cluster.kubectl(["wait", "--for=condition=Ready", "pod/client", "--namespace", namespace, "--timeout=60s"]);
  const url = `http://${cluster.hostAddress}:${address.port}`;
  expect(await inPod("client", namespace, `fetch("${url}").then((r) => r.text()).then(console.log)`)).toBe(
    "the test\n",
  );
  const tls = `require("node:tls").connect({ host: "kubernetes.default.svc", port: 443, rejectUnauthorized: false }, function () { console.log(this.getPeerCertificate().subject.CN); this.end(); })`;
  expect(await inPod("client", namespace, tls)).toBe("kube-apiserver\n");
});

cluster.nodeTest("an image is built from a Dockerfile, and built again when its files change", async () => {
  const namespace = await cluster.namespace();
  const dir = await tempDir();
  await writeFile(
    join(dir, "Dockerfile"),
    `ARG BASE\nFROM $BASE\nCOPY main.js /main.js\nRUN node --check /main.js\nENTRYPOINT ["node", "/main.js"]\n`,
  );
  for (const word of ["one", "two"]) {
    await writeFile(join(dir, "main.js"), `console.log("${word}")\n`);
    await cluster.buildImage({
      dockerfile: join(dir, "Dockerfile"),
      tag: "llmpool.test/word:1",
      args: { BASE: cluster.baseImage },
    });
    const main = { ...container([]), image: "llmpool.test/word:1", command: undefined };
    await cluster.apply([pod(word, main, { restartPolicy: "Never" })], namespace);
    await cluster.kubectl([
      "wait",
      `pod/${word}`,
      "--for=jsonpath={.status.phase}=Succeeded",
      "--namespace",
      namespace,
      "--timeout=60s",
    ]);
    expect(await cluster.kubectl(["logs", word, "--namespace", namespace])).toBe(`${word}\n`);
  }
});

cluster.nodeTest("a pod over its memory limit is killed for that, and said to be", async () => {
  const namespace = await cluster.namespace();
  const grow = "const kept = []; for (;;) kept.push(Buffer.alloc(16 << 20, 1))";
  const main = container(["node", "--eval", grow], { resources: { limits: { memory: "128Mi" } } });
  await cluster.apply([pod("greedy", main, { restartPolicy: "Never" })], namespace);
  interface Status {
    status: { containerStatuses?: { state: { terminated?: { reason: string } } }[] };
  }
  const reason = await eventually("the pod ended", async () => {
    const { status } = await cluster.get<Status>("pod", "greedy", namespace);
    return status.containerStatuses?.[0]?.state.terminated?.reason;
  });
  expect(reason).toBe("OOMKilled");
});

cluster.nodeTest("what a pod writes to its claim is there for the next one", async () => {
  const namespace = await cluster.namespace();
  const claim = {
    apiVersion: "v1",
    kind: "PersistentVolumeClaim",
    metadata: { name: "state" },
    spec: { accessModes: ["ReadWriteOncePod"], resources: { requests: { storage: "1Gi" } } },
  };
  const mounted = (name: string, script: string) =>
    pod(name, container(["node", "--eval", script], { volumeMounts: [{ name: "state", mountPath: "/state" }] }), {
      restartPolicy: "Never",
      volumes: [{ name: "state", persistentVolumeClaim: { claimName: "state" } }],
    });
  await cluster.apply([claim, mounted("writer", `require("fs").writeFileSync("/state/note", "kept")`)], namespace);
  const done = (name: string) =>
    cluster.kubectl([
      "wait",
      `pod/${name}`,
      "--for=jsonpath={.status.phase}=Succeeded",
      "--namespace",
      namespace,
      "--timeout=60s",
    ]);
  await done("writer");
  await cluster.apply([mounted("reader", `console.log(require("fs").readFileSync("/state/note", "utf8"))`)], namespace);
  await done("reader");
  expect(await cluster.kubectl(["logs", "reader", "--namespace", namespace])).toBe("kept\n");
});

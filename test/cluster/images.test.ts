import { beforeAll, expect } from "vitest";
import { packageVersion } from "../../src/cli/version.ts";
import { processEnv } from "../../src/core/process-env.ts";
import { clusterForTests } from "../support/cluster.ts";
import { type BuiltImages, buildImages } from "../support/images.ts";

const cluster = await clusterForTests();
let images: BuiltImages;
beforeAll(async () => {
  if (cluster.node) images = await buildImages(cluster);
}, 600_000);

/** Prints what the process may, and what lies in its image. */
const LOOK = `
const fs = require("node:fs");
const tryWrite = (path) => { try { fs.writeFileSync(path, "x"); return "written"; } catch (error) { return error.code; } };
const files = fs.readdirSync("/opt/llmpool", { recursive: true });
console.log(JSON.stringify({
  uid: process.getuid(), gid: process.getgid(),
  root: tryWrite("/opt/llmpool/x"), tmp: tryWrite("/tmp/x"),
  surplus: files.filter((file) => /^(?!licenses).*\\.(ts|map|md)$|\\.test\\.|^node_modules\\/(vitest|typescript|@biomejs|@types|express)/.test(file)),
  engine: files.some((file) => /llama-addon\\.node$/.test(file)),
  owners: [...new Set(files.map((file) => fs.lstatSync("/opt/llmpool/" + file)).map((s) => s.uid + ":" + s.gid + (s.mode & 0o022 ? " writable" : "")))],
  env: Object.fromEntries(["NODE_ENV", "NODE_OPTIONS", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_"].map((name) => [name, process.env[name]])),
}));`;

cluster.nodeTest(
  "an image starts without root and with a read-only root, as itself, and holds what runs and nothing else",
  async () => {
    const namespace = await cluster.namespace();
    await cluster.kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    const pod = (name: string, image: string, container: object) => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        restartPolicy: "Never",
        // No user: that of the image, which a kubelet checks.
        securityContext: { runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } },
        volumes: [{ name: "tmp", emptyDir: {} }],
        containers: [
          {
            name: "main",
            image,
            securityContext: {
              allowPrivilegeEscalation: false,
              readOnlyRootFilesystem: true,
              capabilities: { drop: ["ALL"] },
            },
            volumeMounts: [{ name: "tmp", mountPath: "/tmp" }],
            ...container,
          },
        ],
      },
    });
    const names = { llmpool: images.llmpool, "llama-cpp": images.llamaCpp };
    const look = { command: ["node", "--eval", LOOK] };
    await cluster.apply(
      Object.entries(names).flatMap(([name, image]) => [
        pod(`${name}-look`, image, look),
        pod(`${name}-version`, image, { args: ["--version"] }),
      ]),
      namespace,
    );
    const printed = async (name: string) => {
      const done = ["wait", `pod/${name}`, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"];
      await cluster.kubectl([...done, "--namespace", namespace]);
      return (await cluster.kubectl(["logs", name, "--namespace", namespace])).trim();
    };
    for (const name of Object.keys(names)) {
      expect(await printed(`${name}-version`)).toBe(packageVersion());
      expect(JSON.parse(await printed(`${name}-look`))).toEqual({
        uid: 65532,
        gid: 65532,
        root: "EROFS",
        tmp: "written",
        surplus: [],
        engine: name === "llama-cpp",
        owners: ["0:0"],
        env: { NODE_ENV: "production", ...withoutThreads(processEnv(1)) },
      });
    }
  },
);

/** Of an instance alone: the number of threads. */
function withoutThreads({ UV_THREADPOOL_SIZE: _, ...env }: Record<string, string>): Record<string, string> {
  return env;
}

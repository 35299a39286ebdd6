import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { InstanceObject } from "../../src/api/http.ts";
import { type ClusterRouterFlags, runClusterRouter } from "../../src/cli/cluster-router.ts";
import type { CliIo } from "../../src/cli/io.ts";
import type { TestCluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";
import { tempDir } from "./temp-dir.ts";

/** A kubeconfig of the account that the operator has made for the routers of the pool `apex`; `way` is given the API server's address and tells theirs. */
export async function routerKubeconfig(
  cluster: TestCluster,
  namespace: string,
  way: (server: URL) => Promise<string>,
): Promise<string> {
  const shown = await cluster.kubectl(["config", "view", "--raw", "--minify", "--output", "json"]);
  const config = JSON.parse(shown) as {
    clusters: { name: string; cluster: { server: string } }[];
    users: { name: string; user: object }[];
  };
  const token = (await cluster.kubectl(["create", "token", "apex", "--namespace", namespace])).trim();
  const server = await way(new URL(config.clusters[0]?.cluster.server ?? ""));
  // Of a server without TLS the client library asks for these words.
  const open = server.startsWith("http:");
  const clusters = config.clusters.map(({ name, cluster }) => ({
    name,
    cluster: open ? { server, "insecure-skip-tls-verify": true } : { ...cluster, server },
  }));
  const users = config.users.map(({ name }) => ({ name, user: { token } }));
  const file = join(await tempDir(), "kubeconfig");
  await writeFile(file, JSON.stringify({ ...config, clusters, users }), { mode: 0o600 });
  return file;
}

/** The router that `llmpool router --pool` runs, in this process, at a free port. Ended with the test. @param cwd what paths of the flags begin at */
export async function startClusterRouter(flags: Omit<ClusterRouterFlags, "host" | "port" | "state">, cwd: string) {
  const end = new AbortController();
  let said = "";
  const io: CliIo = {
    stdout: () => {},
    stderr: (text) => {
      said += text;
    },
    env: {},
    cwd,
    signal: end.signal,
    setExitCode: () => {},
  };
  const running = runClusterRouter({ ...flags, host: "127.0.0.1", port: 0, state: "state" }, io);
  onTestFinished(async () => {
    end.abort(new Error("the test is over"));
    await running;
  });
  const url = await eventually("it listens", () => /router of pool apex at (\S+)/.exec(said)?.[1]);
  return { url, said: () => said };
}

/** A router of the pool `apex` in this process. Ended with the test. */
export async function podRouter(
  namespace: string,
  kubeconfig: string,
  tokenFile: string,
  secret: Map<string, string> = new Map(),
) {
  const flags = { pool: "apex", namespace, kubeconfig, tokenFile, secret };
  const { url } = await startClusterRouter(flags, await tempDir());
  return {
    async rows(): Promise<string[]> {
      const { data } = (await (await fetch(`${url}/v1/instances`)).json()) as { data: InstanceObject[] };
      return data.map(({ id, state, pod, device }) => `${id} ${state} ${pod} ${device}`);
    },
    /** Which instance answers. */
    async ask(role: string, session?: string, content = "hi"): Promise<string> {
      const headers = { "content-type": "application/json", ...(session !== undefined && { "x-session-id": session }) };
      const body = JSON.stringify({ model: role, messages: [{ role: "user", content }] });
      const answer = await fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body });
      await answer.text();
      return `${answer.status} ${answer.headers.get("x-llmpool-instance")}`;
    },
  };
}

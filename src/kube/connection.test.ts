import { readFileSync } from "node:fs";
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { Certificates } from "../../scripts/cluster/certificates.ts";
import { eventually } from "../../test/support/eventually.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { FakeKube } from "../../test/support/fake-kube.ts";
import { settle } from "../../test/support/settle.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import { type Clock, systemClock } from "../lib/clock.ts";
import { Client } from "./client.ts";
import { Connection } from "./connection.ts";
import { type Credentials, findCluster, inCluster } from "./credentials.ts";
import { ConnectionError } from "./errors.ts";
import { fromKubeconfig } from "./kubeconfig.ts";
import { RESOURCES } from "./resource.ts";

const config = { apiVersion: "v1", kind: "ConfigMap", metadata: { namespace: "default", name: "a" } };

async function authority() {
  const dir = await tempDir();
  const certificates = await Certificates.create(join(dir, "pki"));
  await certificates.issue("server", { cn: "server", names: ["IP:127.0.0.1"] });
  await certificates.issue("client", { cn: "client", group: "testers" });
  const read = (name: string) => readFileSync(certificates.file(name), "utf8");
  const server = { key: read("server.key"), cert: read("server.crt") };
  return { dir, certificates, read, server };
}

async function serve(tls: Parameters<typeof FakeKube.start>[0]) {
  const kube = await FakeKube.start(tls);
  onTestFinished(() => kube.close());
  kube.store.create("v1/configmaps", config);
  return kube;
}

function connect(credentials: Credentials, clock: Clock = systemClock) {
  const connection = new Connection({ credentials, clock, userAgent: "test/1" });
  onTestFinished(() => connection.close());
  return new Client({ connection, clock });
}

const get = (client: Client) => client.get(RESOURCES.configMaps, { namespace: "default", name: "a" });

test("300 calls through a kubeconfig with a client certificate take at most two connections", async () => {
  const { dir, certificates, read, server } = await authority();
  const kube = await serve({ ...server, ca: read("ca.crt"), requestCert: true, rejectUnauthorized: true });
  const path = join(dir, "config");
  await certificates.kubeconfig(path, kube.url, "client");
  const client = connect(fromKubeconfig(path));
  for (let i = 0; i < 300; i++) await get(client);
  expect(kube.seen.length).toBe(300);
  // Two are allowed: a connection may be replaced while one waits for it.
  expect(kube.connections).toBeLessThanOrEqual(2);
  expect(kube.seen[0]?.headers["user-agent"]).toBe("test/1");
});

test("a pod's own credentials: its token is read again, at once when the server refuses it and else once a minute", async () => {
  const { dir, read, server } = await authority();
  const kube = await serve(server);
  const mount = join(dir, "mount");
  await mkdir(mount);
  await writeFile(join(mount, "ca.crt"), read("ca.crt"));
  await writeFile(join(mount, "namespace"), "here\n");
  await writeFile(join(mount, "token"), "one\n");
  const env = { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: String(kube.port) };
  const credentials = await inCluster(env, mount);
  if (!credentials) throw new Error("no cluster");
  expect(credentials.namespace).toBe("here");
  const clock = new FakeClock();
  const client = connect(credentials, clock);
  kube.tokens = new Set(["one"]);
  await get(client);

  await writeFile(join(mount, "token"), "two");
  kube.tokens = new Set(["two"]);
  await get(client);
  expect(kube.seen.map((call) => call.headers.authorization)).toEqual(["Bearer one", "Bearer one", "Bearer two"]);

  await writeFile(join(mount, "token"), "three");
  kube.tokens = new Set(["two", "three"]);
  clock.advance(59_000);
  await get(client);
  expect(kube.seen.at(-1)?.headers.authorization).toBe("Bearer two");
  clock.advance(1_000);
  await get(client);
  expect(kube.seen.at(-1)?.headers.authorization).toBe("Bearer three");
  expect(kube.connections).toBe(1);

  kube.tokens = new Set();
  await expect(get(client)).rejects.toMatchObject({ status: 401, reason: "Unauthorized" });
});

test("a replaced authority and a replaced client certificate are taken up without a restart", async () => {
  const { dir, certificates, read, server } = await authority();
  const kube = await serve({ ...server, ca: read("ca.crt"), requestCert: true, rejectUnauthorized: true });
  const files = { "certificate-authority": join(dir, "ca"), cert: join(dir, "cert"), key: join(dir, "key") };
  const write = async (from: Certificates) => {
    await writeFile(files["certificate-authority"], readFileSync(from.file("ca.crt")));
    await writeFile(files.cert, readFileSync(from.file("client.crt")));
    await writeFile(files.key, readFileSync(from.file("client.key")));
  };
  await write(certificates);
  const user = { "client-certificate": "cert", "client-key": "key" };
  const path = await kubeconfig(dir, { server: kube.url, "certificate-authority": "ca" }, user);
  const client = connect(fromKubeconfig(path));
  await get(client);

  const next = await Certificates.create(join(dir, "next"));
  await next.issue("server", { cn: "server", names: ["IP:127.0.0.1"] });
  await next.issue("client", { cn: "client", group: "testers" });
  kube.setCertificates({
    key: readFileSync(next.file("server.key")),
    cert: readFileSync(next.file("server.crt")),
    ca: readFileSync(next.file("ca.crt")),
    requestCert: true,
  });
  kube.dropConnections();
  // The old connection is gone, the new one is not trusted: that is said, and then the files are read again.
  await expect(get(client)).rejects.toBeInstanceOf(ConnectionError);
  await write(next);
  await get(client);
});

test("a server that nobody vouches for is not talked to", async () => {
  const { dir, server } = await authority();
  const kube = await serve(server);
  const other = await Certificates.create(join(dir, "other"));
  const ca = readFileSync(other.file("ca.crt"));
  const client = connect({ ...kube.credentials, read: async () => ({ headers: {}, tls: { ca } }) });
  await expect(get(client)).rejects.toThrow(/cannot reach the API server at https:\/\/127.0.0.1:\d+: .*certificate/);
  expect(kube.seen).toEqual([]);
});

/** A kubeconfig of one cluster, one user and one context. */
async function kubeconfig(dir: string, cluster: object, user: object): Promise<string> {
  const path = join(dir, "config");
  const contexts = [{ name: "x", context: { cluster: "c", user: "u", namespace: "ns" } }];
  const config = { clusters: [{ name: "c", cluster }], users: [{ name: "u", user }], contexts, "current-context": "x" };
  await writeFile(path, JSON.stringify(config));
  return path;
}

test("a credential plugin is run by the library; one that fails is said to, and run again", async () => {
  const { dir, read, server } = await authority();
  const kube = await serve(server);
  kube.tokens = new Set(["from-plugin"]);
  const credential = { kind: "ExecCredential", status: { token: "from-plugin" } };
  const plugin = join(dir, "plugin.sh");
  const seen = join(dir, "seen");
  const failsOnce = `[ -e ${seen} ] || { touch ${seen}; echo "log in first" >&2; exit 1; }`;
  await writeFile(plugin, `#!/bin/sh\n${failsOnce}\necho '${JSON.stringify(credential)}'\n`);
  await chmod(plugin, 0o755);
  const ca = Buffer.from(read("ca.crt")).toString("base64");
  const exec = { apiVersion: "client.authentication.k8s.io/v1", command: plugin, args: [] };
  const path = await kubeconfig(dir, { server: kube.url, "certificate-authority-data": ca }, { exec });
  const client = connect(await findCluster({ env: {}, kubeconfig: path }));
  await expect(get(client)).rejects.toThrow(/no credentials for the API server at https:.*log in first/);
  await get(client);
  expect(kube.seen.map((call) => call.headers.authorization)).toEqual(["Bearer from-plugin"]);
});

test("a login that takes its time is not cut by the call's deadline, only by the caller", async () => {
  const kube = await serve(undefined);
  const clock = new FakeClock();
  const login = Promise.withResolvers<{ headers: Record<string, string>; tls: object }>();
  const client = connect({ ...kube.credentials, read: () => login.promise }, clock);
  const abort = new AbortController();
  const reason = new Error("enough");
  const impatient = client.get(RESOURCES.configMaps, { namespace: "default", name: "a" }, abort.signal);
  const patient = get(client);
  clock.advance(300_000);
  abort.abort(reason);
  await expect(impatient).rejects.toBe(reason);
  login.resolve({ headers: {}, tls: {} });
  await patient;
});

test("a kubeconfig may do without a certificate check, or name the server that the certificate is for", async () => {
  const { dir, certificates, read } = await authority();
  await certificates.issue("named", { cn: "server", names: ["DNS:api.example"] });
  const kube = await serve({ key: read("named.key"), cert: read("named.crt") });
  const ca = Buffer.from(read("ca.crt")).toString("base64");
  const at = async (cluster: object) =>
    get(connect(fromKubeconfig(await kubeconfig(dir, { server: kube.url, ...cluster }, { token: "t" }))));
  await expect(at({ "certificate-authority-data": ca })).rejects.toThrow(/does not match certificate's altnames/);
  await at({ "certificate-authority-data": ca, "tls-server-name": "api.example" });
  await at({ "insecure-skip-tls-verify": true });
  expect(kube.seen.map((call) => call.headers.authorization)).toEqual(["Bearer t", "Bearer t"]);
});

test("several kubeconfigs are one; of two entries of a name the first counts", async () => {
  const dir = await tempDir();
  const file = async (name: string, server: string, context: string) => {
    const path = join(dir, name);
    const cluster = { name: "c", cluster: { server } };
    const contexts = [{ name: context, context: { cluster: "c", namespace: context } }];
    await writeFile(path, JSON.stringify({ clusters: [cluster], contexts, "current-context": context }));
    return path;
  };
  const paths = [await file("1", "https://one", "a"), join(dir, "absent"), await file("2", "https://two", "b")].join(
    ":",
  );
  expect(fromKubeconfig(paths)).toMatchObject({ server: "https://one", namespace: "a" });
  expect(fromKubeconfig(paths, "b")).toMatchObject({ server: "https://one", namespace: "b" });
  expect(() => fromKubeconfig(paths, "c")).toThrow(/has no context "c" with a cluster; it has a, b: choose one/);
});

test("where there is no cluster, the message says what to do", async () => {
  const dir = await tempDir();
  await expect(findCluster({ env: { HOME: dir } })).rejects.toThrow(
    /no kubeconfig at .*: set KUBECONFIG or --kubeconfig/,
  );
  await writeFile(join(dir, "text"), "- no\n- kubeconfig: [");
  await expect(findCluster({ env: { KUBECONFIG: join(dir, "text") } })).rejects.toThrow(/is no kubeconfig: /);
});

test("a closed connection says so, and can be closed again", async () => {
  const kube = await serve(undefined);
  const connection = new Connection({ credentials: kube.credentials, clock: systemClock, userAgent: "t" });
  const client = new Client({ connection, clock: systemClock });
  await get(client);
  await connection.close();
  await connection.close();
  await expect(get(client)).rejects.toThrow("the connection is closed");
});

test("a server that could not be reached is asked thirty times a second for a minute, after the first ten", async () => {
  const kube = await serve(undefined);
  const clock = new FakeClock();
  const client = connect(kube.credentials, clock);
  const ask = async (count: number) => {
    await Promise.all(Array.from({ length: count }, () => get(client)));
  };
  await ask(100);
  kube.fail({ times: 1, what: "reset" });
  await expect(get(client)).rejects.toThrow(ConnectionError);
  const before = kube.seen.length;
  const asked = ask(100);
  for (const [advanceMs, count] of [
    [0, 10],
    [1_000, 40],
    [2_000, 100],
  ] as const) {
    clock.advance(advanceMs);
    await eventually("their turn has come", () => kube.seen.length - before >= count);
    await settle();
    expect(kube.seen.length - before).toBe(count);
  }
  await asked;
  clock.advance(60_000);
  await ask(100);
});

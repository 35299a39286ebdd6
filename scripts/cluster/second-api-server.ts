import { rmSync } from "node:fs";
import { join } from "node:path";
import { connect } from "./api.ts";
import { startApiServer } from "./api-server.ts";
import { Certificates } from "./certificates.ts";
import type { Home } from "./home.ts";
import { freePorts } from "./ports.ts";
import { stop, until } from "./processes.ts";
import type { ClusterFacts } from "./start-all.ts";

const NAME = "second-kube-apiserver";

export interface SecondApiServer {
  /** Its URL, on the loopback address. Everybody whom the first lets in is let in here. */
  server: string;
  stop(): Promise<void>;
}

/**
 * Starts another API server of a running cluster and returns when it is ready. It ends with the cluster at the latest; one that a killed run has
 * left gives way to this one.
 * @param etcd URL of what it takes for etcd
 */
export async function startSecondApiServer(
  home: Home,
  { program }: ClusterFacts["apiServer"],
  etcd: string,
): Promise<SecondApiServer> {
  const { run } = home;
  const certificates = Certificates.at(join(run, "pki"));
  const address = "127.0.0.1";
  const auditLog = join(run, "second-audit.log");
  const end = async () => {
    await stop(run, NAME);
    rmSync(auditLog, { force: true });
  };
  await end();
  const [port = 0] = await freePorts(1, address);
  const server = `https://${address}:${port}`;
  const started = startApiServer({
    ...{ home, certificates, program, name: NAME, address, port, etcd, auditLog },
    advertised: false,
  });
  try {
    const api = connect(server, certificates);
    await until("the second API server", [started], () => api.isReady());
  } catch (error) {
    await end();
    throw error;
  }
  return { server, stop: end };
}

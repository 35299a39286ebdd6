import type { Home } from "../../scripts/cluster/home.ts";
import { startSecondApiServer } from "../../scripts/cluster/second-api-server.ts";
import type { ClusterFacts } from "../../scripts/cluster/start-all.ts";
import type { Credentials } from "../../src/kube/credentials.ts";
import { fromKubeconfig } from "../../src/kube/kubeconfig.ts";
import { EtcdProxy } from "./etcd-proxy.ts";

/** A real API server beside the first, on the same etcd: it can be held back in the past, and cut off. */
export class SecondApiServer implements AsyncDisposable {
  /** Of the cluster's administrator, at this server. */
  readonly credentials: Credentials;
  /** Between this server and etcd. */
  readonly etcd: EtcdProxy;
  readonly #stop: () => Promise<void>;

  private constructor(credentials: Credentials, etcd: EtcdProxy, stop: () => Promise<void>) {
    this.credentials = credentials;
    this.etcd = etcd;
    this.#stop = stop;
  }

  /** Returns when it is ready. */
  static async start(
    home: Home,
    { kubeconfig, apiServer }: Pick<ClusterFacts, "kubeconfig" | "apiServer">,
  ): Promise<SecondApiServer> {
    await using stack = new AsyncDisposableStack();
    const etcd = stack.use(await EtcdProxy.start(apiServer.etcd));
    const { server, stop } = await startSecondApiServer(home, apiServer, etcd.url);
    stack.move();
    return new SecondApiServer({ ...fromKubeconfig(kubeconfig), server }, etcd, stop);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop();
    await this.etcd[Symbol.asyncDispose]();
  }
}

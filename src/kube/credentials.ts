import { readFile } from "node:fs/promises";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import type { ConnectionOptions } from "node:tls";

/** Where an API server is and how to be let in. */
export interface Credentials {
  /** `https://10.96.0.1:443` */
  readonly server: string;
  /** The namespace to work in when none is named. */
  readonly namespace: string | undefined;
  /** What holds now: tokens and certificates are replaced while a process runs. Files are read and plugins run at each call. */
  read(): Promise<Access>;
}

export interface Access {
  headers: Record<string, string>;
  tls: Tls;
  /** `http://proxy:3128` */
  proxy?: string;
}

export type Tls = Pick<
  ConnectionOptions,
  "ca" | "cert" | "key" | "pfx" | "passphrase" | "rejectUnauthorized" | "servername"
>;

/** Where the kubelet puts a pod's own credentials. */
const MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/**
 * A pod's own credentials. Read here and not by the client library, because an operator needs nothing else of it and loading it costs
 * about 60 MB.
 * @param env of the pod: `KUBERNETES_SERVICE_HOST` and `_PORT`. Undefined when this is no pod.
 */
export async function inCluster(env: NodeJS.ProcessEnv, mount = MOUNT): Promise<Credentials | undefined> {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env;
  if (!host || !port) return undefined;
  return {
    server: `https://${isIPv6(host) ? `[${host}]` : host}:${port}`,
    namespace: (await readFile(join(mount, "namespace"), "utf8").catch(() => "")).trim() || undefined,
    async read() {
      const [token, ca] = await Promise.all([readFile(join(mount, "token"), "utf8"), readFile(join(mount, "ca.crt"))]);
      return { headers: { authorization: `Bearer ${token.trim()}` }, tls: { ca } };
    },
  };
}

/** Where to look for a cluster, as a main was told. */
export interface Search {
  env: NodeJS.ProcessEnv;
  /** `--kubeconfig` */
  kubeconfig?: string | undefined;
  /** `--context` */
  context?: string | undefined;
}

/**
 * The cluster a process belongs to, in the order that controllers use: the flag, `KUBECONFIG`, the pod's own, `~/.kube/config`. Rejects
 * with a text for the user when there is none.
 */
export async function findCluster({ env, kubeconfig, context }: Search): Promise<Credentials> {
  const explicit = kubeconfig ?? env.KUBECONFIG;
  if (!explicit) {
    const own = await inCluster(env);
    if (own && context === undefined) return own;
  }
  const { fromKubeconfig } = await import("./kubeconfig.ts");
  return fromKubeconfig(explicit ?? join(env.HOME ?? "", ".kube", "config"), context);
}

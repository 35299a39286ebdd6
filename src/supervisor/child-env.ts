import type { InstanceConfig } from "../api/instance.ts";
import { processEnv } from "../core/process-env.ts";

type Env = Readonly<Record<string, string | undefined>>;

/** What an instance may see of its parent's environment: where things are, how to reach the network, and which GPU. Nothing secret but a hub's token. */
const ALLOWED = new Set([
  "PATH",
  "HOME",
  "TMPDIR",
  "LANG",
  "LC_ALL",
  "TZ",
  "HTTP_PROXY",
  "HTTPS_PROXY",
  "NO_PROXY",
  "ALL_PROXY",
  "NODE_EXTRA_CA_CERTS",
  "NODE_USE_ENV_PROXY",
  "NODE_USE_SYSTEM_CA",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
  "REQUESTS_CA_BUNDLE",
  "CURL_CA_BUNDLE",
  "CUDA_VISIBLE_DEVICES",
  "LD_LIBRARY_PATH",
]);
const ALLOWED_PREFIXES = ["HF_", "PIP_"];

/** The whole environment of a child. */
export function childEnv(parent: Env, config: InstanceConfig): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(parent)) {
    if (value !== undefined && allowed(name)) env[name] = value;
  }
  env.LLMPOOL_INSTANCE = JSON.stringify(config);
  return { ...env, ...processEnv(config.sessions) };
}

const allowed = (name: string): boolean =>
  ALLOWED.has(name) || ALLOWED.has(name.toUpperCase()) || ALLOWED_PREFIXES.some((prefix) => name.startsWith(prefix));

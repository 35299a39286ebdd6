import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Child } from "./child.ts";

export interface NginxOptions {
  /** Path of the program. */
  nginx: string;
  /** Where it may write. */
  dir: string;
  name: string;
  /** What stands inside of `http { }`. */
  http: string;
  cores?: string | undefined;
  signal: AbortSignal;
}

/** One nginx process, without a master and without a log. */
export async function startNginx({ nginx, dir, name, http, cores, signal }: NginxOptions): Promise<Child> {
  const config = join(dir, `${name}.conf`);
  const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((kind) => `${kind}_temp_path ${join(dir, `${name}-${kind}`)};`)
    .join("\n");
  await writeFile(
    config,
    `daemon off; master_process off; error_log stderr warn; pid ${join(dir, `${name}.pid`)};
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  ${temp}
  ${http}
}`,
  );
  return new Child({ file: nginx, args: ["-c", config, "-e", "stderr"], cores, signal });
}

/** Instances that answer at once, one server a port: 300 bytes of an OpenAI answer with its usage. */
export function instantInstances(ports: readonly number[]): string {
  return ports
    .map(
      (port) => `
  server {
    listen 127.0.0.1:${port};
    default_type application/json;
    location = /v1/chat/completions { return 200 '${ANSWER}'; }
    location = /v1/models { return 200 '{"object":"list","data":[{"id":"stub","object":"model","created":1,"owned_by":"llmpool"}]}'; }
    location = /healthz { return 200 '{"id":"x","boot":"boot-${port}","uptime_s":1}'; }
    location /internal/ { return 404 '{"id":"x","boot":"boot-${port}","uptime_s":1}'; }
    location / { return 200 '{}'; }
  }`,
    )
    .join("");
}

/** A proxy that does nothing but pass on, to the first instance. */
export function plainProxy(port: number, upstream: number): string {
  return `
  upstream instances { server 127.0.0.1:${upstream}; keepalive 64; }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://instances;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }`;
}

const ANSWER = answerOf(300);

function answerOf(bytes: number): string {
  const make = (content: string) =>
    JSON.stringify({
      id: "chatcmpl-1",
      object: "chat.completion",
      created: 1,
      model: "stub",
      choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }],
      usage: { prompt_tokens: 400, completion_tokens: 16, total_tokens: 416 },
    });
  return make("x".repeat(bytes - make("").length));
}

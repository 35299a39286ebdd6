import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Child } from "./child.ts";
import type { LoadRequest } from "./traffic.ts";

/** What one run of load did. */
export interface LoadReport {
  requests: number;
  /** Anything but a whole answer with status 200. */
  errors: number;
  seconds: number;
}

export interface Load {
  url: string;
  connections: number;
  seconds: number;
  cores?: string | undefined;
  signal: AbortSignal;
}

/** Sends load from a process of its own, over kept-alive connections, one call at a time on each. */
export type Generator = (load: Load) => Promise<LoadReport>;

const PATH = "/v1/chat/completions";

/** `wrk` is the path of that program; without it a slower generator in Node does the same. */
export async function makeGenerator(requests: LoadRequest[], dir: string, wrk?: string): Promise<Generator> {
  const script = join(dir, wrk ? "traffic.lua" : "traffic.json");
  await writeFile(script, wrk ? luaOf(requests) : JSON.stringify(requests));
  return async ({ url, connections, seconds, cores, signal }) => {
    const [file, args] = wrk
      ? [wrk, ["-t1", `-c${connections}`, `-d${seconds}s`, "--timeout", "10s", "-s", script, url]]
      : [
          process.execPath,
          [fileURLToPath(new URL("./generator-main.ts", import.meta.url)), script, url + PATH, connections, seconds],
        ];
    await using child = new Child({ file, args: args.map(String), cores, signal });
    await child.ended();
    signal.throwIfAborted();
    const report = /^LOAD (.*)$/m.exec(child.output)?.[1];
    if (report === undefined) throw new Error(`the load generator failed: ${child.output}`);
    return JSON.parse(report) as LoadReport;
  };
}

/** wrk's script: complete requests, made once, sent in turn. JSON's escapes of ASCII text are Lua's too. */
function luaOf(requests: LoadRequest[]): string {
  const raw = requests.map(({ headers, body }) => {
    const lines = Object.entries({ host: "127.0.0.1", ...headers, "content-length": body.length });
    return `POST ${PATH} HTTP/1.1\r\n${lines.map(([k, v]) => `${k}: ${v}\r\n`).join("")}\r\n${body}`;
  });
  return `
local requests = {${raw.map((r) => JSON.stringify(r)).join(",\n")}}
local at = 0
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary)
  local e = summary.errors
  io.write(string.format('LOAD {"requests":%d,"errors":%d,"seconds":%f}\\n', summary.requests,
    e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6))
end
`;
}

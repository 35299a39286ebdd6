// Instances that stream, one server a port: node sse-instances-main.ts CHUNKS GAP_MS PORT... `GET /chunks` says how many left so far.
import { createServer, type ServerResponse } from "node:http";

const [chunks = "50", gapMs = "5", ...ports] = process.argv.slice(2);
const PIECE = {
  id: "chatcmpl-1",
  object: "chat.completion.chunk",
  created: 1,
  model: "stub",
  choices: [{ index: 0, delta: { content: " token" }, finish_reason: null }],
};
const FRAME = Buffer.from(`data: ${JSON.stringify(PIECE)}\n\n`);
const USAGE = { id: "x", done: true, prompt_tokens: 400, completion_tokens: Number(chunks), cached_tokens: 0 };
const END = Buffer.from(`: usage ${JSON.stringify(USAGE)}\n\ndata: [DONE]\n\n`);
let sent = 0;

function stream(response: ServerResponse): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  let left = Number(chunks);
  const timer = setInterval(() => {
    left--;
    sent++;
    response.write(FRAME);
    if (left > 0) return;
    clearInterval(timer);
    response.end(END);
  }, Number(gapMs));
  response.on("close", () => clearInterval(timer));
}

/** What a router asks for besides: who it is, whether it is ready, and, after a hang-up, what a request cost that it does not remember. */
function answer(path: string, port: string): [status: number, body: object] {
  const identity = { id: "x", boot: `boot-${port}`, uptime_s: 1 };
  if (path === "/chunks") return [200, { sent }];
  if (path === "/healthz") return [200, identity];
  if (path.startsWith("/internal/")) return [404, identity];
  return [200, { object: "list", data: [{ id: "stub", object: "model", created: 1, owned_by: "llmpool" }] }];
}

for (const port of ports) {
  createServer((request, response) => {
    request.resume();
    if (request.method === "POST") {
      stream(response);
      return;
    }
    const [status, body] = answer(request.url ?? "/", port);
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(body));
  }).listen(Number(port), "127.0.0.1");
}

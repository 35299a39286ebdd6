import { once } from "node:events";
import { request } from "node:http";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { getLlama } from "node-llama-cpp";
import { GrammarBuilder } from "../../runtime-image/llama-cpp/grammar/builder.ts";
import { compileSchema } from "../../runtime-image/llama-cpp/grammar/schema.ts";
import { HOSTILE_SCHEMAS } from "../support/hostile-schemas.ts";
import type { Bench, Goal, Row } from "./bench.ts";
import { Child, freePort } from "./child.ts";
import { cpuMicros, proportionalMemory, splitCores } from "./cpu.ts";
import { startPoolRouter } from "./pool.ts";
import { ratios, summarize } from "./samples.ts";

const MIB = 2 ** 20;
/** Of the CPU, for one bad body or schema, in milliseconds. */
const LIMIT_MS = 50;
/** A body is sent that often in a round: the kernel counts CPU time in steps of 10 ms. */
const REPEATS = 10;
/** More memory than before the bad bodies is no leak up to here, in MB. */
const MEMORY_MB = 32;
const [STREAMS, CHUNKS, GAP_MS, SLOW] = [10, 200, 10, 200];
/** How much slow callers may add to the p99 between two tokens of others: within what two equal runs differ. */
const RATIO = 1.5;
const PATH = "/v1/chat/completions";
const HI = '"messages":[{"role":"user","content":"hi"}]';

/** What those do to a router and a runtime who mean it ill. */
export const edge: Bench = {
  name: "edge",
  about: "CPU of refusing bad bodies and schemas, memory after it, and what slow callers cost the streams of others",
  rounds: 3,
  async run({ rounds, say, signal, dir }) {
    await using stack = new AsyncDisposableStack();
    const cores = splitCores();
    const instance = await freePort();
    const main = fileURLToPath(new URL("./sse-instances-main.ts", import.meta.url));
    const args = [main, String(CHUNKS), String(GAP_MS), String(instance)];
    const instances = stack.use(new Child({ file: process.execPath, args, cores: cores?.others, signal }));
    await instances.answers(`http://127.0.0.1:${instance}/healthz`);
    const port = await freePort();
    const router = stack.use(
      await startPoolRouter({
        dir: join(dir, "router"),
        port,
        instances: [instance],
        flags: [],
        cores: cores?.measured,
        signal,
      }),
    );
    await router.answers(`http://127.0.0.1:${port}/readyz`);

    const bodies = badBodies();
    const cpu = new Map(bodies.map(({ name }) => [name, [] as number[]]));
    const memory: number[] = [];
    const quiet: number[] = [];
    const loris: number[] = [];
    // Code is compiled and buffers grow with the first of each: memory counts from there.
    for (const { body } of bodies) await refused(port, body);
    const base = proportionalMemory(router.pid);
    for (let round = 1; round <= rounds; round++) {
      signal.throwIfAborted();
      say(`bad bodies, round ${round} of ${rounds}`);
      for (const { name, body } of bodies) {
        const before = cpuMicros(router.pid);
        for (let i = 0; i < REPEATS; i++) await refused(port, body);
        cpu.get(name)?.push((cpuMicros(router.pid) - before) / REPEATS / 1000);
      }
      memory.push((proportionalMemory(router.pid) - base) / 1e6);
      say(`slow callers, round ${round} of ${rounds}`);
      quiet.push(await gaps(port, signal));
      const slow = await Promise.all(Array.from({ length: SLOW }, (_, i) => slowCaller(port, i)));
      loris.push(await gaps(port, signal));
      for (const { socket, timer } of slow) {
        clearInterval(timer);
        socket.destroy();
      }
    }
    say("schemas");
    const schemas = await schemaCosts(rounds);

    const worst = [...cpu].map(([name, ms]) => ({ name, ms: summarize(ms) }));
    const schemaRows = [...schemas].map(([name, ms]) => ({ name, ms: summarize(ms) }));
    const gapRatio = summarize(ratios(loris, quiet));
    const rows: Row[] = [
      ...worst.map(({ name, ms }) => ({ name: `body: ${name}`, values: [ms, undefined] })),
      ...schemaRows.map(({ name, ms }) => ({ name: `schema: ${name}`, values: [ms, undefined] })),
      { name: "between two tokens, p99", values: [summarize(quiet), summarize(quiet.map(() => 1))] },
      { name: `the same beside ${SLOW} slow callers`, values: [summarize(loris), gapRatio] },
    ];
    const goals: Goal[] = [
      most(`a bad body costs at most ${LIMIT_MS} ms of CPU`, worst, LIMIT_MS),
      {
        text: `memory afterwards at most ${MEMORY_MB} MB above that before`,
        measured: summarize(memory),
        kept: summarize(memory).median <= MEMORY_MB,
      },
      most(`a schema costs at most ${LIMIT_MS} ms of CPU`, schemaRows, LIMIT_MS),
      {
        text: `slow callers: p99 between two tokens of others at most ${RATIO} x`,
        measured: gapRatio,
        kept: gapRatio.median <= RATIO,
      },
    ];
    return { columns: ["ms", "x quiet"], rows, goals };
  },
};

/** The goal that the worst of them has to keep. */
function most(text: string, all: readonly { name: string; ms: ReturnType<typeof summarize> }[], limit: number): Goal {
  const worst = all.reduce((a, b) => (b.ms.median > a.ms.median ? b : a));
  return { text: `${text} (${worst.name})`, measured: worst.ms, kept: worst.ms.median <= limit };
}

/** As large as a pool takes them, and each wrong in its own way. */
function badBodies(): { name: string; body: Buffer }[] {
  const size = 8 * MIB - 1_000;
  const fill = (start: string, piece: string, end: string) =>
    start + piece.repeat(Math.floor((size - start.length - end.length) / piece.length)) + end;
  const tool = (i: number) =>
    `{"type":"function","function":{"name":"f${i}","parameters":{"enum":[${"1,".repeat(9_900)}1]}}}`;
  const rows: [string, string | Buffer][] = [
    ["8 MiB that are no JSON", fill("{", " ", "")],
    ["8 MiB of depth", "[".repeat(size / 2) + "]".repeat(size / 2)],
    ["depth of 10,000", "[".repeat(10_000) + "]".repeat(10_000)],
    ["8 MiB of numbers", fill(`{${HI},"n":2,"x":[1`, ",1", "]}")],
    ["8 MiB of names", `{${HI},"n":2,"x":{${Array.from({ length: 500_000 }, (_, i) => `"${i}":0`).join()}}}`],
    ["8 MiB of empty objects", fill(`{${HI},"n":2,"x":[{}`, ",{}", "]}")],
    ["8 MiB of one name", fill(`{${HI},"n":2`, ',"n":2', "}")],
    [
      "8 MiB of messages",
      fill(`{"n":2,"messages":[{"role":"user","content":"hi"}`, ',{"role":"user","content":"hi"}', "]}"),
    ],
    [
      "8 MiB of text parts",
      fill(
        '{"n":2,"messages":[{"role":"user","content":[{"type":"text","text":""}',
        ',{"type":"text","text":""}',
        "]}]}",
      ),
    ],
    ["8 MiB of one text", fill(`{"n":2,"messages":[{"role":"user","content":"`, "a", '"}]}')],
    ["8 MiB of escapes", fill(`{"n":2,"messages":[{"role":"user","content":"`, "\\u0041", '"}]}')],
    ["128 tools of 9,900 values", `{${HI},"n":2,"tools":[${Array.from({ length: 128 }, (_, i) => tool(i)).join()}]}`],
    ["8 MiB that are no UTF-8", Buffer.concat([Buffer.alloc(size, 0x20), Buffer.from([0xc3, 0x28])])],
    ["100 MiB", Buffer.alloc(100 * MIB, 0x20)],
  ];
  return rows.map(([name, body]) => ({ name, body: Buffer.from(body) }));
}

/** Sends it, and fails unless it is refused. */
async function refused(port: number, body: Buffer): Promise<void> {
  const req = request({
    host: "127.0.0.1",
    port,
    path: PATH,
    method: "POST",
    headers: { "content-length": body.length },
    agent: false,
  });
  // One that is refused before it is sent loses its connection.
  const failed = new Promise<undefined>((resolve) => req.on("error", () => resolve(undefined)));
  req.end(body);
  const answer = await Promise.race([once(req, "response"), failed]);
  if (answer === undefined) return;
  const [response] = answer as [import("node:http").IncomingMessage];
  response.resume();
  if (response.statusCode !== 400 && response.statusCode !== 413)
    throw new Error(`answered with ${response.statusCode}`);
  await once(response, "end").catch(() => {});
}

/** The p99 of the time between two pieces of some streams at once, in milliseconds. */
async function gaps(port: number, signal: AbortSignal): Promise<number> {
  const all: number[] = [];
  const one = async () => {
    const body = JSON.stringify({
      model: "planner",
      stream: true,
      messages: [{ role: "user", content: "hi" }],
      max_tokens: 300,
    });
    const answer = await fetch(`http://127.0.0.1:${port}${PATH}`, { method: "POST", body, signal });
    let last: number | undefined;
    for await (const _ of answer.body ?? []) {
      const now = performance.now();
      if (last !== undefined) all.push(now - last);
      last = now;
    }
  };
  await Promise.all(Array.from({ length: STREAMS }, one));
  all.sort((a, b) => a - b);
  return all[Math.ceil(all.length * 0.99) - 1] ?? Number.NaN;
}

/** Headers or a body a byte at a time, or a stream that is not read. */
async function slowCaller(port: number, i: number): Promise<{ socket: Socket; timer: NodeJS.Timeout }> {
  const socket = connect(port, "127.0.0.1").on("error", () => {});
  await once(socket, "connect");
  const start = `POST ${PATH} HTTP/1.1\r\nHost: x\r\n`;
  socket.write(i % 2 === 0 ? `${start}X-Slow: ` : `${start}Content-Length: 5000\r\n\r\n`);
  return { socket, timer: setInterval(() => socket.write("a"), 1_000) };
}

/** CPU of compiling each schema and of the engine's reading of its grammar, twice as in a request, in milliseconds. */
async function schemaCosts(rounds: number): Promise<Map<string, number[]>> {
  const llama = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    progressLogs: false,
    logger: () => {},
  });
  const costs = new Map<string, number[]>();
  for (let round = 0; round <= rounds; round++) {
    for (const [name, schema] of Object.entries(HOSTILE_SCHEMAS)) {
      const before = process.threadCpuUsage();
      try {
        const builder = new GrammarBuilder();
        const grammar = builder.text(compileSchema(schema, builder));
        for (let i = 0; i < 2; i++) await llama.createGrammar({ grammar });
      } catch {
        // Refused: that is what it may be.
      }
      const { user, system } = process.threadCpuUsage(before);
      // The first round compiles our own code.
      if (round > 0) costs.set(name, [...(costs.get(name) ?? []), (user + system) / 1000]);
    }
  }
  await llama.dispose();
  return costs;
}

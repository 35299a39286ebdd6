// The load generator for machines without wrk: node generator-main.ts TRAFFIC URL CONNECTIONS SECONDS
import { readFileSync } from "node:fs";
import { Pool } from "undici";
import type { LoadReport } from "./generator.ts";
import type { LoadRequest } from "./traffic.ts";

const [script = "", url = "", connections = "1", seconds = "1"] = process.argv.slice(2);
const requests = JSON.parse(readFileSync(script, "utf8")) as LoadRequest[];
const { origin, pathname } = new URL(url);
const pool = new Pool(origin, { connections: Number(connections), pipelining: 1 });
const began = performance.now();
const report: LoadReport = { requests: 0, errors: 0, seconds: 0 };
let next = 0;

async function sendUntilTheEnd(): Promise<void> {
  while (performance.now() - began < Number(seconds) * 1000) {
    const { headers, body } = requests[next++ % requests.length] ?? { headers: {}, body: "" };
    try {
      const answer = await pool.request({ method: "POST", path: pathname, headers, body });
      await answer.body.dump();
      if (answer.statusCode !== 200) report.errors++;
    } catch {
      report.errors++;
    }
    report.requests++;
  }
}

await Promise.all(Array.from({ length: Number(connections) }, sendUntilTheEnd));
report.seconds = (performance.now() - began) / 1000;
await pool.close();
console.log(`LOAD ${JSON.stringify(report)}`);

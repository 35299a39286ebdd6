import { once } from "node:events";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import type { InstanceConfig, SupervisedInstance } from "../../src/api/instance.ts";
import { Client } from "../conformance/client.ts";
import { eventually } from "../support/eventually.ts";
import { fixedPorts } from "../support/fixed-ports.ts";
import { processSpec } from "../support/process-spec.ts";
import { superviseProcess } from "../support/supervise-process.ts";
import { tempDir } from "../support/temp-dir.ts";
import { hfCuda } from "./runtime.ts";

/** Importing torch alone takes seconds of CPU, and a busy machine gives few. */
const START_MS = 300_000;
const TOKEN = "t";

/** `llmpool supervise` with Python instances `0`, `1`, … of the tiny model, as in a Packed pod. Ended with the test. */
export async function packed(count: number, change: Partial<InstanceConfig> = {}) {
  const { tiny } = hfCuda();
  const dir = await tempDir();
  await writeFile(join(dir, "token"), TOKEN);
  const ports = await fixedPorts(count);
  const specs = ports.map((port, i) =>
    processSpec(String(i), {
      drainSeconds: 5,
      memoryLimitBytes: 4 * 2 ** 30,
      config: {
        backend: "hf-cuda",
        port,
        model: { uri: `file://${tiny}`, sha256: "", quantization: "none" },
        contextTokens: 128,
        sessions: 1,
        threads: 1,
        tokenFile: join(dir, "token"),
        stateDir: join(dir, String(i)),
        cacheDir: dir,
        ...change,
      },
    }),
  );
  await writeFile(join(dir, "0.json"), JSON.stringify(specs));
  const env = { ...process.env, PATH: `${await pythonFolder(dir)}:${process.env.PATH}` };
  const { child, port, said } = await superviseProcess(join(dir, "0.json"), env);
  const health = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/healthz`);
    return ((await answer.json()) as { instances: SupervisedInstance[] }).instances;
  };
  return {
    dir,
    clients: ports.map((one) => new Client({ url: `http://127.0.0.1:${one}`, token: TOKEN })),
    /** Until the instances are in these states, in their order. */
    become: (states: readonly object[]) =>
      eventually(
        `the instances are ${JSON.stringify(states)}`,
        async () => {
          expect(await health(), said()).toMatchObject(states);
          return true;
        },
        START_MS,
      ),
    health,
    /** Process ids by instance id. */
    pids: () => pidsOf(child.pid ?? 0, count),
    async end() {
      child.kill("SIGTERM");
      expect(await once(child, "exit")).toEqual([0, null]);
    },
  };
}

/** A folder with `python` in it, which knows the package, as the image has it. */
export async function pythonFolder(dir: string): Promise<string> {
  const { program } = hfCuda();
  const python = join(dir, "python");
  const variables = Object.entries(program.env).map(([name, value]) => `${name}='${value}'`);
  await writeFile(python, `#!/bin/sh\nexec env ${variables.join(" ")} '${program.command[0]}' "$@"\n`);
  await chmod(python, 0o755);
  return dir;
}

async function pidsOf(parent: number, count: number): Promise<number[]> {
  const children = (await readFile(`/proc/${parent}/task/${parent}/children`, "utf8")).trim().split(" ").map(Number);
  const ids = await Promise.all(
    children.map(async (pid) => /"id":"(\d+)"/.exec(await readFile(`/proc/${pid}/environ`, "utf8"))?.[1]),
  );
  return Array.from({ length: count }, (_, i) => {
    const pid = children[ids.indexOf(String(i))];
    if (pid === undefined) throw new Error(`no child of ${parent} is instance ${i}`);
    return pid;
  });
}

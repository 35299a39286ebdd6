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

/**
 * `llmpool supervise` with Python instances `0`, `1`, … of the tiny model, as in a Packed pod. Ended with the test. The first `sharing` of them
 * map the weights that another process, `weights`, holds.
 */
export async function packed(count: number, change: Partial<InstanceConfig> = {}, sharing = 0) {
  const { tiny } = hfCuda();
  const dir = await tempDir();
  await writeFile(join(dir, "token"), TOKEN);
  const ports = await fixedPorts(count);
  const socket = join(dir, "shared", "0.sock");
  const spec = (id: string, port: number, role?: "own" | "map") =>
    processSpec(id, {
      drainSeconds: 5,
      memoryLimitBytes: 4 * 2 ** 30,
      ...(role === "map" && { after: "weights" }),
      config: {
        backend: "hf-cuda",
        port,
        ...(role && { weights: { role, socket } }),
        model: { uri: `file://${tiny}`, sha256: "", quantization: "none" },
        contextTokens: 128,
        sessions: 1,
        threads: 1,
        tokenFile: join(dir, "token"),
        stateDir: join(dir, id),
        cacheDir: dir,
        ...change,
      },
    });
  const specs = [
    ...(sharing > 0 ? [spec("weights", 0, "own")] : []),
    ...ports.map((port, i) => spec(String(i), port, i < sharing ? "map" : undefined)),
  ];
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
    /** Process ids, in the order of the instances. */
    pids: () =>
      pidsOf(
        child.pid ?? 0,
        specs.map(({ id }) => id),
      ),
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

async function pidsOf(parent: number, wanted: readonly string[]): Promise<number[]> {
  const children = (await readFile(`/proc/${parent}/task/${parent}/children`, "utf8")).trim().split(" ").map(Number);
  const ids = await Promise.all(
    children.map(async (pid) => /"id":"(\w+)"/.exec(await readFile(`/proc/${pid}/environ`, "utf8"))?.[1]),
  );
  return wanted.map((id) => {
    const pid = children[ids.indexOf(id)];
    if (pid === undefined) throw new Error(`no child of ${parent} is instance ${id}`);
    return pid;
  });
}

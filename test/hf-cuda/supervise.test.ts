import { once } from "node:events";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { SupervisedInstance } from "../../src/api/instance.ts";
import { eventually } from "../support/eventually.ts";
import { processSpec } from "../support/process-spec.ts";
import { superviseProcess } from "../support/supervise-process.ts";
import { tempDir } from "../support/temp-dir.ts";
import { hfCuda } from "./runtime.ts";

const { program, tiny } = hfCuda();
/** Importing torch alone takes seconds of CPU, and a busy machine gives few. */
const START_MS = 170_000;

test("a supervisor runs Python instances of a Packed pod, and starts one that died again, alone", async () => {
  const dir = await tempDir();
  // As the image has it: `python` on the PATH, which knows the package.
  const python = join(dir, "python");
  const variables = Object.entries(program.env).map(([name, value]) => `${name}='${value}'`);
  await writeFile(python, `#!/bin/sh\nexec env ${variables.join(" ")} '${program.command[0]}' "$@"\n`);
  await chmod(python, 0o755);
  await writeFile(join(dir, "token"), "t");
  const spec = (id: string) =>
    processSpec(id, {
      drainSeconds: 5,
      memoryLimitBytes: 4 * 2 ** 30,
      config: {
        backend: "hf-cuda",
        model: { uri: `file://${tiny}`, sha256: "", quantization: "none" },
        contextTokens: 128,
        sessions: 1,
        threads: 1,
        tokenFile: join(dir, "token"),
        stateDir: join(dir, id),
        cacheDir: dir,
      },
    });
  await writeFile(join(dir, "0.json"), JSON.stringify([spec("0"), spec("1")]));

  const env = { ...process.env, PATH: `${dir}:${process.env.PATH}` };
  const { child, port, said } = await superviseProcess(join(dir, "0.json"), env);
  const instances = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/healthz`);
    return ((await answer.json()) as { instances: SupervisedInstance[] }).instances;
  };
  const all = (states: object[]) =>
    eventually(
      "the instances are ready",
      async () => {
        expect(await instances(), said()).toMatchObject(states);
        return true;
      },
      START_MS,
    );
  await all([
    { id: "0", state: "Ready", restarts: 0, device: "CPU" },
    { id: "1", state: "Ready", restarts: 0, device: "CPU" },
  ]);
  process.kill(await pidOf(child.pid ?? 0, "1"), "SIGKILL");
  await all([
    { id: "0", state: "Ready", restarts: 0 },
    { id: "1", state: "Ready", restarts: 1 },
  ]);
  child.kill("SIGTERM");
  expect(await once(child, "exit")).toEqual([0, null]);
}, 400_000);

/** The child that runs this instance. */
async function pidOf(parent: number, id: string): Promise<number> {
  const children = (await readFile(`/proc/${parent}/task/${parent}/children`, "utf8")).trim().split(" ").map(Number);
  for (const pid of children) if ((await readFile(`/proc/${pid}/environ`, "utf8")).includes(`"id":"${id}"`)) return pid;
  throw new Error(`no child of ${parent} is instance ${id}`);
}

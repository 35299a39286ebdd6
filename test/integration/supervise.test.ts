import { once } from "node:events";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { SupervisedInstance } from "../../src/api/instance.ts";
import type { ProcessSpec } from "../../src/supervisor/spec.ts";
import { eventually } from "../support/eventually.ts";
import { processSpec } from "../support/process-spec.ts";
import { superviseProcess } from "../support/supervise-process.ts";
import { tempDir } from "../support/temp-dir.ts";

interface Health {
  instances: SupervisedInstance[];
}

/** `llmpool supervise` over a file of its own, as in a pod. Ended when the test is. */
async function supervise() {
  const dir = await tempDir();
  const file = join(dir, "0.json");
  // As a kubelet replaces what it mounts: whole, in one step.
  const write = async (next: unknown) => {
    await writeFile(`${file}.new`, JSON.stringify(next));
    await rename(`${file}.new`, file);
  };
  await writeFile(join(dir, "token"), "t");
  const { child, port, said } = await superviseProcess(file);
  const health = async () => ((await (await fetch(`http://127.0.0.1:${port}/healthz`)).json()) as Health).instances;
  const instances = async () => (await health()).map(({ id, state }) => `${id} ${state}`);
  return { child, write, health, instances, said, dir };
}

const spec = (dir: string, id: string, revision = "a"): ProcessSpec =>
  processSpec(id, {
    revision,
    drainSeconds: 0,
    config: { tokenFile: join(dir, "token"), stateDir: join(dir, id), cacheDir: dir },
  });

test("runs what the file lists, follows it, keeps the last good one, and drains on SIGTERM", async () => {
  const { child, write, health, instances, said, dir } = await supervise();
  expect(await instances()).toEqual([]);
  await write([spec(dir, "5"), spec(dir, "6")]);
  await eventually("both are ready", async () => (await instances()).join() === "5 Ready,6 Ready");
  const told = { restarts: 0, device: "stub", warmup_s: expect.any(Number), tokens_per_second: expect.any(Number) };
  expect(await health()).toMatchObject([told, told]);
  expect((await health()).map(({ revision }) => revision)).toEqual(["a", "a"]);
  await write([spec(dir, "5"), spec(dir, "6", "b")]);
  await eventually("one is replaced", async () => (await health())[1]?.revision === "b");
  await eventually("both are ready", async () => (await instances()).join() === "5 Ready,6 Ready");
  expect((await health()).map(({ revision }) => revision)).toEqual(["a", "b"]);
  await write([{ id: "5" }]);
  await eventually("a bad file is refused", () => /kept the old file/.test(said()));
  expect(await instances()).toEqual(["5 Ready", "6 Ready"]);
  await write([spec(dir, "5")]);
  await eventually("one is left", async () => (await instances()).join() === "5 Ready");
  child.kill("SIGTERM");
  const [code] = await once(child, "exit");
  expect(code).toBe(0);
});

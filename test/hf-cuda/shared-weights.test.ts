import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { eventually } from "../support/eventually.ts";
import { packed } from "./packed.ts";
import { hfCuda } from "./runtime.ts";

const { smol } = hfCuda();
const ASKED = { prompt: "Once upon a time", max_tokens: 8, temperature: 0 };

test("processes of a card share one copy of the weights; after their owner's death they follow one by one", async () => {
  const model = { uri: `file://${smol}`, sha256: "", quantization: "none" };
  const pod = await packed(3, { model }, 2);
  const ready = { state: "Ready", restarts: 0 };
  await pod.become(["weights", "0", "1", "2"].map((id) => ({ id, ...ready })));
  const texts = async () => {
    const answers = await Promise.all(pod.clients.map((client) => client.stream("/v1/completions", ASKED)));
    return answers.map(({ text }) => text);
  };
  const [alone] = (await texts()).slice(-1);
  expect(await texts()).toEqual([alone, alone, alone]);

  const before = await pod.pids();
  if (process.env.LLMPOOL_TEST_GPU === undefined) await expectOneCopy(before);

  // Of those who share, one at a time is away.
  const away: string[] = [];
  const said: string[] = [];
  let most = 0;
  process.kill(before[0] ?? 0, "SIGKILL");
  await eventually(
    "all follow",
    async () => {
      const now = await pod.health();
      const out = now.filter(({ id, state }) => id !== "weights" && state !== "Ready").map(({ id }) => id);
      most = Math.max(most, out.length);
      away.push(...out.filter((id) => id !== away.at(-1)));
      said.push(...now.flatMap(({ id, message }) => (id === "1" && message !== undefined ? [message] : [])));
      const pids = await pod.pids().catch(() => before);
      return now.every(({ state }) => state === "Ready") && [0, 1, 2].every((i) => pids[i] !== before[i]);
    },
    300_000,
  );
  expect(away).toEqual(["0", "1"]);
  expect(most).toBe(1);
  expect(said).toContain("weights has ended: this one is replaced in its turn when that is Ready again");
  const after = await pod.pids();
  expect(after[3]).toBe(before[3]);
  expect(await texts()).toEqual([alone, alone, alone]);
  await pod.end();
}, 900_000);

/** Of the owner, two that share, and one that does not. */
async function expectOneCopy(pids: readonly number[]): Promise<void> {
  const weightsKiB = (await stat(join(smol, "model.safetensors"))).size / 1024;
  const [owner, first, second, other] = await Promise.all(pids.map(sharedOf));
  // Each maps all of it, and together they hold it once.
  for (const one of [first, second]) expect(one?.Rss).toBeGreaterThan(weightsKiB * 0.95);
  const together = [owner, first, second].reduce((sum, one) => sum + (one?.Pss ?? 0), 0);
  expect(together).toBeGreaterThan(weightsKiB * 0.95);
  expect(together).toBeLessThan(weightsKiB * 1.05);
  expect(other?.Rss).toBe(0);
}

/** What is mapped of torch's shared memory, in KiB: all of it, and this process's share. */
async function sharedOf(pid: number) {
  const shared = { Rss: 0, Pss: 0 };
  let isShared = false;
  for (const line of (await readFile(`/proc/${pid}/smaps`, "utf8")).split("\n")) {
    const [, name = "", amount = ""] = /^(\w+): +(\d+) kB$/.exec(line) ?? [];
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) isShared = line.includes("/torch_");
    else if (isShared && (name === "Rss" || name === "Pss")) shared[name] += Number(amount);
  }
  return shared;
}

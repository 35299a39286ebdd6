import { expect, test } from "vitest";
import { type Client, readStream } from "../conformance/client.ts";
import { eventually } from "../support/eventually.ts";
import { packed } from "./packed.ts";

/** Long enough that a kill in its middle is one: seconds of decoding. */
const LONG = { prompt: "Once upon a time", max_tokens: 3000, temperature: 0 };

test("kill -9 of one of five Python instances breaks none of the four other token streams", async () => {
  const pod = await packed(5, { contextTokens: 4096 });
  const ids = ["0", "1", "2", "3", "4"];
  await pod.become(ids.map((id) => ({ id, state: "Ready", restarts: 0 })));
  const before = await pod.pids();
  expect(new Set(before).size).toBe(5);

  const streams = pod.clients.map(follow);
  await eventually("all five stream", () => streams.every((one) => one.frames() > 10));
  const atKill = streams.map((one) => one.frames());
  expect(streams.map((one) => one.ended())).toEqual(ids.map(() => false));
  process.kill(before[2] ?? 0, "SIGKILL");
  await expect(streams[2]?.text).rejects.toThrow();

  const texts = await Promise.all(streams.filter((_, i) => i !== 2).map((one) => one.text));
  for (const [i, one] of streams.entries()) if (i !== 2) expect(one.frames()).toBeGreaterThan(atKill[i] ?? 0);
  const whole = texts.map((text) => readStream(text));
  for (const stream of whole) {
    expect(stream.kinds.at(-1)).toBe("done");
    expect(stream.record).toMatchObject({ completion_tokens: LONG.max_tokens });
  }
  await pod.become(ids.map((id) => ({ id, state: "Ready", restarts: id === "2" ? 1 : 0 })));
  const after = await pod.pids();
  expect(after.filter((pid, i) => pid !== before[i])).toEqual([after[2]]);

  // What an instance says that nothing happened to: the same, to the last character.
  const undisturbed = await pod.clients[2]?.stream("/v1/completions", LONG);
  expect(whole.map((stream) => stream.text)).toEqual(whole.map(() => undisturbed?.text));
  await pod.end();
}, 900_000);

/** A stream that is read as it comes. */
function follow(client: Client) {
  let seen = "";
  let ended = false;
  const read = async () => {
    const body = { ...LONG, stream: true, stream_options: { include_usage: true } };
    const response = await client.post("/v1/completions", body);
    const decoder = new TextDecoder();
    for await (const part of response.body ?? []) seen += decoder.decode(part, { stream: true });
    ended = true;
    return seen;
  };
  const text = read();
  text.catch(() => {});
  return { text, ended: () => ended, frames: () => seen.split("\n\n").length - 1 };
}

import { expect, test } from "vitest";
import { USAGE_KEPT_MS } from "../../src/api/instance.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { UsageRecords } from "./records.ts";

const never = new AbortController().signal;

test("a record is there while its request runs and for ten minutes after", async () => {
  const clock = new FakeClock();
  const records = new UsageRecords(clock);
  const record = records.open("a");
  record.prompt_tokens = 5;
  expect(await records.find("a", 0, never)).toMatchObject({ done: false, prompt_tokens: 5 });
  records.close(record);
  clock.advance(USAGE_KEPT_MS - 1);
  expect(await records.find("a", 0, never)).toMatchObject({ done: true, prompt_tokens: 5 });
  clock.advance(1);
  expect(await records.find("a", 0, never)).toBeUndefined();
});

test("waiting ends with the request, with the time, or with who waits", async () => {
  const clock = new FakeClock();
  const records = new UsageRecords(clock);
  const record = records.open("a");
  const untilDone = records.find("a", 10_000, never);
  const untilTime = records.find("a", 1_000, never);
  const gone = new AbortController();
  const untilGone = records.find("a", 10_000, gone.signal);
  gone.abort();
  expect(await untilGone).toMatchObject({ done: false });
  clock.advance(1_000);
  expect(await untilTime).toMatchObject({ done: false });
  records.close(record);
  expect(await untilDone).toMatchObject({ done: true });
});

test("an id that has used tokens, or is running, is refused; one that has used none may try again", () => {
  const records = new UsageRecords(new FakeClock());
  const first = records.open("a");
  expect(() => records.open("a")).toThrow(expect.objectContaining({ code: "invalid_request", param: "x-request-id" }));
  records.close(first);
  const second = records.open("a");
  second.prompt_tokens = 1;
  records.close(second);
  expect(() => records.open("a")).toThrow(expect.objectContaining({ code: "invalid_request" }));
});

test("an id that was answered as unknown is refused while that answer counts", async () => {
  const clock = new FakeClock();
  const records = new UsageRecords(clock);
  expect(await records.find("a", 0, never)).toBeUndefined();
  expect(() => records.open("a")).toThrow(expect.objectContaining({ param: "x-request-id" }));
  clock.advance(USAGE_KEPT_MS);
  expect(records.open("a")).toMatchObject({ done: false });
});

test("what is kept is bounded; the oldest go first, the running stay", async () => {
  const records = new UsageRecords(new FakeClock());
  records.open("running");
  for (let i = 0; i < 70_000; i++) records.close(records.open(`r${i}`));
  expect(await records.find("running", 0, never)).toBeDefined();
  expect(await records.find("r69999", 0, never)).toBeDefined();
  expect(await records.find("r0", 0, never)).toBeUndefined();
});

import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { InstanceStatus } from "./status.ts";

test("tells its age exactly: a router compares it with the age of a request", () => {
  const clock = new FakeClock();
  const status = new InstanceStatus("0", clock);
  clock.advance(1_750);
  expect(status.identity().uptime_s).toBe(1.75);
});

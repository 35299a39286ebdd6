import { expect, test } from "vitest";
import { resourcesOf } from "./quantity.ts";

test("one instance's amounts stay as they were written", () => {
  expect(resourcesOf({ limits: { memory: "12Gi", cpu: 2 } })).toEqual({ limits: { cpu: "2", memory: "12Gi" } });
});

test("several instances need as many times as much, exactly", () => {
  const resources = { limits: { cpu: "1500m", memory: "1.5Gi" }, requests: { cpu: "0.1" } };
  expect(resourcesOf(resources, 5, { "nvidia.com/gpu": "1" })).toEqual({
    limits: { cpu: "7500m", memory: "8053063680", "nvidia.com/gpu": "1" },
    requests: { cpu: "500m" },
  });
});

test("nothing asked is nothing said", () => {
  expect(resourcesOf({})).toEqual({});
});

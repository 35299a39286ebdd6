import { expect, test } from "vitest";
import { instanceConfig } from "../../test/support/process-spec.ts";
import { childEnv } from "./child-env.ts";

test("passes on what is allowed and nothing else", () => {
  const parent = {
    PATH: "/bin",
    HF_TOKEN: "t",
    PIP_INDEX_URL: "u",
    https_proxy: "p",
    AWS_SECRET_ACCESS_KEY: "s",
    NODE_OPTIONS: "--inspect",
    HOME: undefined,
  };
  const { LLMPOOL_INSTANCE, MALLOC_ARENA_MAX, MALLOC_TRIM_THRESHOLD_, NODE_OPTIONS, ...env } = childEnv(
    parent,
    instanceConfig({ sessions: 6 }),
  );
  expect(env).toEqual({ PATH: "/bin", HF_TOKEN: "t", PIP_INDEX_URL: "u", https_proxy: "p", UV_THREADPOOL_SIZE: "10" });
  expect({ MALLOC_ARENA_MAX, MALLOC_TRIM_THRESHOLD_, NODE_OPTIONS }).toEqual({
    MALLOC_ARENA_MAX: "1",
    MALLOC_TRIM_THRESHOLD_: "131072",
    NODE_OPTIONS: "--max-semi-space-size=4",
  });
  expect(JSON.parse(LLMPOOL_INSTANCE ?? "")).toMatchObject({ sessions: 6 });
});

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
  const { LLMPOOL_INSTANCE, ...env } = childEnv(parent, instanceConfig({ sessions: 6 }));
  expect(env).toEqual({ PATH: "/bin", HF_TOKEN: "t", PIP_INDEX_URL: "u", https_proxy: "p", UV_THREADPOOL_SIZE: "10" });
  expect(JSON.parse(LLMPOOL_INSTANCE ?? "")).toMatchObject({ sessions: 6 });
});

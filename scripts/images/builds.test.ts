import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { buildCommand, imageBuilds, TOOLS } from "./builds.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

test("each tool is asked in its own words for the same image at whatever time", () => {
  const settings = { staged: "/staged", registry: "registry.example/team", version: "1.2.3", base: "node:24" };
  const [llmpool, llamaCpp] = imageBuilds(settings);
  const lines = TOOLS.map((tool) => llmpool && buildCommand(tool, llmpool).join(" "));
  const rest = `--tag=registry.example/team/llmpool/llmpool:1.2.3 --file=${ROOT}runtime-image/llmpool/Dockerfile --build-arg=BASE=node:24 /staged/llmpool`;
  expect(lines).toEqual([
    `buildah build --timestamp=0 ${rest}`,
    `podman build --timestamp=0 ${rest}`,
    `docker build --build-arg=SOURCE_DATE_EPOCH=0 ${rest}`,
  ]);
  expect(llamaCpp?.args).toEqual({ BASE: "registry.example/team/llmpool/llmpool:1.2.3" });
});

test("npm run images builds with docker, then pushes, and ends where docker fails", async () => {
  const dir = await tempDir();
  // A docker that notes what it is asked for, and cannot push the last image.
  const noted = join(dir, "noted");
  const docker = `#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "$@" >> ${noted}\ncase "$*" in *push*hf-cuda*) exit 7;; esac\n`;
  await writeFile(join(dir, "docker"), docker, { mode: 0o755 });
  const args = ["llmpool", "hf-cuda", "--tool", "docker", "--registry", "r.example", "--tag", "t", "--push"];
  const { status } = spawnSync(process.execPath, [join(ROOT, "scripts/images.ts"), ...args], {
    env: { ...process.env, PATH: `${dir}:${process.env.PATH}` },
    stdio: "ignore",
  });
  expect(status).toBe(1);
  const lines = readFileSync(noted, "utf8").trim().split("\n");
  const epoch = "build --build-arg=SOURCE_DATE_EPOCH=0";
  expect(lines).toEqual([
    expect.stringMatching(
      new RegExp(`^${epoch} --tag=r.example/llmpool/llmpool:t --file=.*/llmpool/Dockerfile /.*/llmpool$`),
    ),
    `${epoch} --tag=r.example/llmpool/hf-cuda:t --file=${ROOT}runtime-image/hf-cuda/Dockerfile --build-arg=LLMPOOL=r.example/llmpool/llmpool:t ${ROOT}runtime-image/hf-cuda`,
    "push r.example/llmpool/llmpool:t",
    "push r.example/llmpool/hf-cuda:t",
  ]);
});

/**
 * `npm run images`: builds the images that the operator's pods run. docs/images.md explains them. Exit codes: 0 done, 1 one could not be built or pushed, 2 wrong usage.
 */
import { spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packageVersion } from "../src/cli/version.ts";
import { buildCommand, IMAGES, imageBuilds, TOOLS } from "./images/builds.ts";
import { stageImages } from "./images/stage.ts";
import { readOptions } from "./options.ts";

const USAGE = `npm run images -- [NAME...] [options]: build the images that the operator's pods run, or only those named of
${IMAGES.join(", ")}
  --registry PREFIX   in front of their names
  --tag TAG           default: this version
  --base IMAGE        what llmpool stands on
  --cuda-base IMAGE   what hf-cuda stands on
  --tool TOOL         ${TOOLS.join(", ")}; default: the first that is here
  --push              bring them to their registry`;
const { values, positionals } = readOptions(USAGE, {
  registry: { type: "string", default: "" },
  tag: { type: "string", default: packageVersion() },
  base: { type: "string" },
  "cuda-base": { type: "string" },
  tool: { type: "string" },
  push: { type: "boolean", default: false },
});
const works = (name: string) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0;
const tool = TOOLS.find((name) => (values.tool === undefined ? works(name) : name === values.tool));
if (!tool) {
  console.error(
    values.tool === undefined ? `install one of ${TOOLS.join(", ")}` : `--tool takes one of ${TOOLS.join(", ")}`,
  );
  process.exit(2);
}
const unknown = positionals.filter((name) => !(IMAGES as readonly string[]).includes(name));
if (unknown.length > 0) {
  console.error(`no image ${unknown.join(", ")}; there are ${IMAGES.join(", ")}`);
  process.exit(2);
}
if (values.push && values.registry === "") {
  console.error("--push needs --registry: registry.example.com/team");
  process.exit(2);
}

// Told to end, the builder ends by itself, and what was staged goes with this.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
const staged = await mkdtemp(join(tmpdir(), "llmpool-images-"));
try {
  await stageImages(staged);
  const { registry, tag: version, base, "cuda-base": cudaBase } = values;
  const builds = imageBuilds({ staged, registry, version, base, cudaBase }).filter(
    ({ name }) => positionals.length === 0 || positionals.includes(name),
  );
  const commands = [
    ...builds.map((build) => buildCommand(tool, build)),
    ...(values.push ? builds.map(({ tag }) => [tool, "push", tag]) : []),
  ];
  for (const [file = "", ...args] of commands) {
    console.log([file, ...args].join(" "));
    const { status } = spawnSync(file, args, { stdio: "inherit" });
    if (status === 0) continue;
    process.exitCode = 1;
    break;
  }
} finally {
  await rm(staged, { recursive: true, force: true });
}

import { spawnSync } from "node:child_process";
import { chmod, chown, cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { PYTHON_PACKAGES, packBase } from "../../scripts/cluster/base-image.ts";
import { command } from "../../scripts/cluster/command.ts";
import { imageBuilds } from "../../scripts/images/builds.ts";
import { stageImages } from "../../scripts/images/stage.ts";
import { packageVersion } from "../../src/cli/version.ts";
import { Client } from "../conformance/client.ts";
import { InstanceProcess, TOKEN } from "../conformance/process.ts";
import { eventually } from "../support/eventually.ts";
import { tempDir } from "../support/temp-dir.ts";
import { hfCuda } from "./runtime.ts";

const { program, tiny } = hfCuda();
const START_MS = 300_000;
const BASE = "llmpool.test/python:1";
const USER = 65_532;
const succeeds = (...args: [string, string[]]) => spawnSync(...args, { stdio: "ignore" }).status === 0;
/** Builds as root with this machine's own Debian packages. */
const canBuild =
  process.getuid?.() === 0 &&
  succeeds("buildah", ["--version"]) &&
  succeeds("dpkg-query", ["--show", ...PYTHON_PACKAGES]);

interface Inspected {
  OCIv1: { config: { User: string; Env: string[]; Entrypoint: string[]; Cmd: string[] } };
}

/** A container as a kubelet makes it, of what matters here: the image's user, a root that is only read, and what is mounted. */
const CONTAINER = `set -e
root=$1 packages=$2 model=$3 state=$4; shift 4
for name in proc dev packages model state; do mkdir -p "$root/$name"; done
mount --bind "$root" "$root"
mount --bind "$packages" "$root/packages"; mount --bind "$model" "$root/model"
mount -o remount,bind,ro "$root"; mount -o remount,bind,ro "$root/packages"; mount -o remount,bind,ro "$root/model"
mount --bind "$state" "$root/state"; mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
exec chroot --userspec=${USER}:${USER} "$root" env HOME=/ PYTHONPATH=/packages "$@"`;

test.runIf(canBuild)(
  "the image is built, and starts on a CPU without root and with a root that is only read",
  async () => {
    const dir = await tempDir();
    const store = ["--root", join(dir, "store"), "--runroot", join(dir, "run"), "--storage-driver", "overlay"];
    const buildah = (...args: string[]) => command("buildah", [...store, ...args]);
    onTestFinished(async () => {
      await buildah("rm", "--all");
    });
    const build = (tag: string, dockerfile: string, context: string, args: Record<string, string>) => {
      const given = Object.entries(args).map(([name, value]) => `--build-arg=${name}=${value}`);
      return buildah(
        "build",
        "--isolation=chroot",
        "--quiet",
        `--tag=${tag}`,
        `--file=${dockerfile}`,
        ...given,
        context,
      );
    };
    const archive = await packBase(join(dir, "base"), PYTHON_PACKAGES);
    await writeFile(join(dir, "Dockerfile"), `FROM scratch\nADD ${basename(archive)} /\n`);
    await build(BASE, join(dir, "Dockerfile"), dirname(archive), {});

    await stageImages(join(dir, "staged"));
    const staged = join(dir, "staged");
    const builds = imageBuilds({ staged, registry: "llmpool.test", version: "1", base: BASE, cudaBase: BASE });
    const [llmpool, , image] = builds;
    if (!llmpool || image?.name !== "hf-cuda") throw new Error("the images have other names");
    await build(llmpool.tag, llmpool.dockerfile, llmpool.context, llmpool.args);
    const context = await withoutPackages(image.context, join(dir, "context"));
    await build(image.tag, image.dockerfile, context, {
      ...image.args,
      PIP_CERT: "/etc/ssl/certs/ca-certificates.crt",
      ...(process.env.PIP_INDEX_URL !== undefined && { PIP_INDEX_URL: process.env.PIP_INDEX_URL }),
    });

    const container = (await buildah("from", image.tag)).trim();
    const root = (await buildah("mount", container)).trim();
    const { config } = (JSON.parse(await buildah("inspect", "--type=image", image.tag)) as Inspected).OCIv1;
    expect(config.User).toBe(`${USER}:${USER}`);
    const state = join(dir, "state");
    await mkdir(state);
    await chown(state, USER, USER);
    await writeFile(join(state, "token"), TOKEN);
    await chmod(dir, 0o755);
    // Its weights are their owner's alone.
    const model = join(dir, "model");
    await cp(tiny, model, { recursive: true });
    for (const name of await readdir(model)) await chmod(join(model, name), 0o644);
    const packages = join(dirname(dirname(program.command[0])), "lib/python3.11/site-packages");
    const inside = (...args: string[]): [string, ...string[]] => [
      ...(["unshare", "--mount", "--propagation", "private", "sh", "-c", CONTAINER, "sh"] as const),
      ...[root, packages, model, state, ...config.Env, ...args],
    ];
    const run = ([file, ...args]: [string, ...string[]]) => command(file, args);
    const write = 'import os; print(os.getuid(), os.access("/opt", os.W_OK), os.path.exists("/opt/hf-cuda/bin/pip"))';
    expect(await run(inside("python", "-c", write))).toBe(`${USER} False True\n`);
    expect((await run(inside("llmpool", "--version"))).trim()).toBe(packageVersion());

    await using instance = await InstanceProcess.listening(
      {
        backend: "hf-cuda",
        model: { uri: "file:///model", sha256: "", quantization: "nf4" },
        threads: 1,
        ...{ tokenFile: "/state/token", cacheDir: "/state/cache", stateDir: "/state/sessions" },
      },
      { command: inside(...config.Entrypoint, ...config.Cmd), env: { HF_HUB_OFFLINE: "1", CUDA_VISIBLE_DEVICES: "" } },
    );
    await eventually("it is ready", () => instance.heard("ready"), START_MS).catch((error) => {
      throw new Error(`it is not ready: ${instance.stderr}`, { cause: error });
    });
    const said = await new Client(instance).stream("/v1/completions", {
      prompt: "Once",
      max_tokens: 4,
      temperature: 0,
    });
    expect(said.record).toMatchObject({ completion_tokens: 4 });
    instance.child.kill("SIGTERM");
    expect(await instance.exit()).toEqual({ code: 0, signal: null });
  },
  900_000,
);

/**
 * The image's context with a lock of setuptools alone: what else it names are gigabytes, which the test's environment has already and which are
 * mounted when the image runs.
 */
async function withoutPackages(from: string, to: string): Promise<string> {
  await mkdir(to);
  for (const name of ["src", "pyproject.toml"]) await cp(join(from, name), join(to, name), { recursive: true });
  const lock = await readFile(join(from, "requirements.lock"), "utf8");
  const entry = /^setuptools==(?:.*\\\n)*.*\n/m.exec(lock)?.[0];
  if (entry === undefined) throw new Error("requirements.lock has no setuptools");
  await writeFile(join(to, "requirements.lock"), entry);
  return to;
}

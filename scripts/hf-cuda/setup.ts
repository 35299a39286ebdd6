import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultCacheDir } from "../../src/models/cache-dir.ts";
import { smolModel } from "../../test/support/model.ts";
import { CommandError, command } from "../cluster/command.ts";
import { withLock } from "../cluster/lock.ts";

export const PACKAGE = fileURLToPath(new URL("../../runtime-image/hf-cuda", import.meta.url));

/** Oldest Python that the package runs on. */
const OLDEST = [3, 11] as const;

/** What a CPU never loads: torch itself needs the rest of CUDA to start at all, as there is no CPU build of it in the registry. */
const LEFT_OUT = ["triton", "nvidia-cuda-cccl"];

/** Where the Python side of the tests lies: `venv/bin/python` and `models`. */
export interface HfCudaHome {
  dir: string;
  python: string;
}

/** Why it cannot be had here. The message ends in the cure. */
export class NoPython extends Error {
  override readonly name = "NoPython";
}

/**
 * Makes the virtual environment from requirements-test.lock (every file pinned by hash; about 2 GB are fetched once, 5 GB on disk) and the
 * test models. What is there already stays. Throws `NoPython`. `leftOut`: packages that are not installed.
 */
export async function setUpHfCuda(say: (line: string) => void, leftOut = LEFT_OUT): Promise<HfCudaHome> {
  const base = join(dirname(defaultCacheDir(process.env, process.platform, homedir())), "hf-cuda");
  const lockText = await readFile(join(PACKAGE, "requirements-test.lock"), "utf8");
  const python = await findPython();
  const version = createHash("sha256").update(`${python.version}\n${leftOut}\n${lockText}`).digest("hex").slice(0, 16);
  const dir = join(base, version);
  const home = { dir, python: join(dir, "venv/bin/python") };
  const waits = () => say("waiting for another run that sets up Python for hf-cuda");
  await withLock(join(base, `${version}.lock`), waits, async () => {
    if (!existsSync(join(dir, "installed"))) await install(python.file, dir, withoutThose(lockText, leftOut), say);
    await makeModels(home, say);
  });
  return home;
}

async function install(python: string, dir: string, lockText: string, say: (line: string) => void): Promise<void> {
  say("installing Python packages for hf-cuda, once (some minutes, 5 GB)");
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  try {
    const lock = join(dir, "requirements.txt");
    await writeFile(lock, lockText);
    await command(python, ["-m", "venv", join(dir, "venv")]);
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
    await command(join(dir, "venv/bin/python"), [...pip, "--only-binary", ":all:", "-r", lock]);
    await writeFile(join(dir, "installed"), "");
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    const why = error instanceof CommandError ? error.stderr.trim().split("\n").at(-1) : String(error);
    throw new NoPython(`the packages of requirements-test.lock cannot be installed (${why}): check pip's registry`);
  }
}

async function makeModels({ dir, python }: HfCudaHome, say: (line: string) => void): Promise<void> {
  const script = join(PACKAGE, "tests/make_models.py");
  const text = await readFile(script);
  const models = join(dir, "models");
  const made = join(models, `made-${createHash("sha256").update(text).digest("hex").slice(0, 16)}`);
  if (existsSync(made)) return;
  say("making the models of the hf-cuda tests, once");
  const gguf = await smolModel();
  const draft = `${models}.draft`;
  await rm(draft, { recursive: true, force: true });
  const env = { ...process.env, HF_HUB_OFFLINE: "1", CUDA_VISIBLE_DEVICES: "" };
  await command(python, [script, draft, gguf], { env });
  await writeFile(join(draft, made.slice(models.length + 1)), "");
  await rm(models, { recursive: true, force: true });
  await rename(draft, models);
}

/** The newest of the usual names that is not too old and can make environments. */
async function findPython(): Promise<{ file: string; version: string }> {
  const show = "import sys, venv, ensurepip; print(sys.executable, '%d.%d.%d' % sys.version_info[:3])";
  for (const name of ["python3", "python3.14", "python3.13", "python3.12", "python3.11"]) {
    const found = await command(name, ["-c", show]).catch(() => "");
    const [file = "", version = ""] = found.trim().split(" ");
    const [major = 0, minor = 0] = version.split(".").map(Number);
    if (major === OLDEST[0] && minor >= OLDEST[1]) return { file, version };
  }
  throw new NoPython(`there is no Python ${OLDEST.join(".")} or newer with venv: install one (Debian: python3-venv)`);
}

/** A lock without some packages. An entry is its first line and the hashes behind it, which are indented. */
function withoutThose(lockText: string, names: readonly string[]): string {
  let kept = true;
  const lines = lockText.split("\n").filter((line) => {
    if (!line.startsWith(" ")) kept = !names.includes(line.split("==")[0] ?? "");
    return kept;
  });
  return lines.join("\n");
}

import { constants, existsSync, readFileSync } from "node:fs";
import { chmod, copyFile, mkdir, readdir, stat, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundle, copyLicenses } from "./bundle.ts";
import { type Locked, packagesOf } from "./packages.ts";

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** What a package carries that no running process reads: types, TypeScript, source maps, texts, and the sources of llama.cpp (34 MB). */
const UNREAD = /\.([mc]?ts|map|md|markdown)$|^gitRelease\.bundle$/;
/** What the llama-cpp image adds. */
const ENGINE = "node-llama-cpp";
/** What images run, and what these start. */
const PROGRAMS = ["src/cli/main", "src/cli/doctor/device-probe", "runtime-image/main"];

/**
 * Writes what the images are made of below `dir`: `llmpool` and `llama-cpp`, the build contexts of the Dockerfiles of these names. The packages
 * are those of the lock file, taken from node_modules. Same sources, same bytes, times and modes.
 *
 * @throws Error that names the package which node_modules lacks, or with the bundler's words.
 */
export async function stageImages(dir: string, cpu: string = process.arch): Promise<void> {
  const app = join(dir, "llmpool");
  const packages = await bundle({ root: ROOT, programs: PROGRAMS, external: [ENGINE], to: join(app, "dist") });
  await copyLicenses(ROOT, packages, join(app, "licenses"));
  for (const file of ["package.json", "LICENSE"]) await copyFile(join(ROOT, file), join(app, file));
  const { packages: locked } = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")) as {
    packages: Locked;
  };
  for (const folder of packagesOf(locked, [ENGINE], { cpu })) await copyPackage(folder, join(dir, "llama-cpp", folder));
  await settle(dir);
}

async function copyPackage(folder: string, to: string): Promise<void> {
  const from = join(ROOT, folder);
  if (!existsSync(from))
    throw new Error(
      `${folder} is not there, and the image needs it: npm install --no-save, on Linux or with --os=linux --libc=glibc`,
    );
  await copyTree(from, to, true);
}

/** `packageRoot`: node_modules in it are packages of their own, and come by their own right. */
async function copyTree(from: string, to: string, packageRoot = false): Promise<void> {
  await mkdir(to, { recursive: true });
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const { name } = entry;
    if (entry.isDirectory()) {
      if (!(packageRoot && name === "node_modules")) await copyTree(join(from, name), join(to, name));
    } else if (entry.isFile() && !UNREAD.test(name)) {
      await copyFile(join(from, name), join(to, name), constants.COPYFILE_FICLONE);
    }
  }
}

/** The same times and modes whoever builds: they are part of an image's bytes. */
async function settle(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await settle(path);
    else {
      const runs = ((await stat(path)).mode & 0o100) !== 0 || path.endsWith("/src/cli/main.js");
      await chmod(path, runs ? 0o755 : 0o644);
      await utimes(path, 0, 0);
    }
  }
  await chmod(dir, 0o755);
  await utimes(dir, 0, 0);
}

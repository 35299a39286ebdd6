import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { packBase } from "./base-image.ts";
import { command } from "./command.ts";
import type { Home } from "./home.ts";
import { withLock } from "./lock.ts";
import { inNode } from "./node.ts";
import { SANDBOX_IMAGE } from "./node-config.ts";

/** The image that others are built on: this machine's C and C++ libraries, shell and certificates, and Node. */
export const BASE_IMAGE = "llmpool.test/base:1";

export interface ImageSource {
  /** Path of the Dockerfile. */
  dockerfile: string;
  /** The folder that its COPY lines read from; without it, the Dockerfile's own. */
  context?: string;
  /** The name that pods use, with a registry's name in front (`llmpool.test/router:1`). */
  tag: string;
  /** Values of the ARG lines. */
  args?: Readonly<Record<string, string>>;
}

/**
 * Builds an image with buildah and brings it onto the node. Layers are kept in the cache folder, so what did not change is not built again,
 * and an image that the node has already is not brought again. There is no registry: pods ask for it with `imagePullPolicy: Never` or
 * `IfNotPresent`.
 */
export async function buildImage(home: Home, source: ImageSource): Promise<void> {
  await alone(home, () => buildAlone(home, source));
}

/** One at a time: each removes what an older image of the same name has left. */
function alone<T>(home: Home, work: () => Promise<T>): Promise<T> {
  return withLock(join(home.cache, "images.lock"), () => {}, work);
}

async function buildAlone(home: Home, { dockerfile, context, tag, args = {} }: ImageSource): Promise<void> {
  const buildArgs = Object.entries(args).flatMap(([name, value]) => ["--build-arg", `${name}=${value}`]);
  const options = ["--isolation", "chroot", "--layers", "--quiet", "--tag", tag, "--file", dockerfile, ...buildArgs];
  // The last line is the image's id, a hash of all that is in it.
  const built = await buildah(home, ["build", ...options, context ?? dirname(dockerfile)]);
  await bring(home, built.trim().split("\n").at(-1) ?? "", tag);
  await prune(home);
}

/** Removes the images, and their archives, that have lost their name to a newer one. */
async function prune(home: Home): Promise<void> {
  await buildah(home, ["rmi", "--prune"]);
  const named = await buildah(home, ["images", "--no-trunc", "--format", "{{.ID}}"]);
  const keep = new Set(named.split("\n").map((id) => id.replace("sha256:", "")));
  const dir = join(home.cache, "images");
  for (const file of await readdir(dir)) {
    const id = /^([0-9a-f]{64})\.tar/.exec(file)?.[1];
    if (id !== undefined && !keep.has(id)) await rm(join(dir, file), { force: true });
  }
}

async function bring(home: Home, id: string, tag: string): Promise<void> {
  const name = `llmpool.test/by-id:${id}`;
  const images = (...args: string[]) => inNode(home, "ctr", ["--namespace", "k8s.io", "images", ...args]);
  const present = (await images("list", "--quiet")).split("\n").includes(name);
  if (!present) await images("import", await archiveOf(home, id, name));
  await images("tag", "--force", name, tag);
}

async function archiveOf(home: Home, id: string, name: string): Promise<string> {
  const archive = join(home.cache, "images", `${id}.tar`);
  if (existsSync(archive)) return archive;
  const made = `${archive}.new`;
  try {
    await rm(made, { force: true }); // a killed run's
    await buildah(home, ["push", "--quiet", id, `docker-archive:${made}:${name}`]);
    await rename(made, archive);
  } finally {
    await rm(made, { force: true });
  }
  return archive;
}

/** Builds the base and the sandbox image and brings them onto the node. */
export async function buildBase(home: Home): Promise<void> {
  const archive = await alone(home, () => packBase(join(home.cache, "images")));
  const dir = await mkdtemp(join(home.run, "build-"));
  try {
    const [base, sandbox] = [join(dir, "Dockerfile.base"), join(dir, "Dockerfile.sandbox")];
    await writeFile(base, `FROM scratch\nADD ${basename(archive)} /\nENTRYPOINT []\nCMD ["/bin/sh"]\n`);
    await writeFile(sandbox, `FROM ${BASE_IMAGE}\nENTRYPOINT ["/usr/bin/sleep", "infinity"]\n`);
    await buildImage(home, { dockerfile: base, context: dirname(archive), tag: BASE_IMAGE });
    await buildImage(home, { dockerfile: sandbox, tag: SANDBOX_IMAGE });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/**
 * Runs buildah on a store of our own. In a mount namespace, so that a build that is killed leaves no mount behind, with what it would write
 * to /var/lib and /etc in that store too.
 */
async function buildah(home: Home, args: string[]): Promise<string> {
  const store = join(home.cache, "images", "store");
  await mkdir(join(store, "lib"), { recursive: true });
  const conf = join(store, "containers.conf");
  await writeFile(conf, `[network]\nnetwork_config_dir = "${join(store, "networks")}"\n`);
  const place = ["--root", join(store, "root"), "--runroot", join(store, "run"), "--storage-driver", "overlay"];
  const script = 'mount --bind "$0" /var/lib && exec buildah "$@"';
  const inside = ["sh", "-c", script, join(store, "lib"), ...place, ...args];
  return command("unshare", ["--mount", "--propagation", "private", ...inside], {
    env: { ...process.env, CONTAINERS_CONF: conf },
  });
}

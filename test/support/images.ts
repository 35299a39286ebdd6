import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { clusterHome } from "../../scripts/cluster/home.ts";
import { type ImageName, imageBuilds } from "../../scripts/images/builds.ts";
import { ROOT, stageImages } from "../../scripts/images/stage.ts";
import { packageVersion } from "../../src/cli/version.ts";
import type { TestCluster } from "./cluster.ts";

export interface BuiltImages {
  /** For the operator's `--image-registry`. */
  registry: string;
  /** Full names, for pods. */
  llmpool: string;
  llamaCpp: string;
}

/**
 * Builds the images of these sources from the cluster's base and brings them onto the real node. What the running cluster has been given already
 * is not built again.
 */
export async function buildImages(cluster: Pick<TestCluster, "baseImage" | "buildImage">): Promise<BuiltImages> {
  const home = clusterHome(process.env);
  // Clusters beside each other may be of other checkouts, and share one image store.
  const registry = `llmpool.test/${home.slot}`;
  const known = join(home.run, "images-of-sources");
  const sources = await hashOfSources();
  const staged = await mkdtemp(join(tmpdir(), "llmpool-images-"));
  try {
    const builds = imageBuilds({ staged, registry, version: packageVersion(), base: cluster.baseImage });
    const tagOf = (name: ImageName) => builds.find((build) => build.name === name)?.tag ?? "";
    const images = { registry, llmpool: tagOf("llmpool"), llamaCpp: tagOf("llama-cpp") };
    if ((await readFile(known, "utf8").catch(() => "")) === sources) return images;
    await stageImages(staged);
    // hf-cuda needs a distribution's packages, which the base of the tests cannot install.
    for (const build of builds) if (build.name !== "hf-cuda") await cluster.buildImage(build);
    await writeFile(known, sources);
    return images;
  } finally {
    await rm(staged, { recursive: true, force: true });
  }
}

/** Changes with every file that an image, or how it is made, depends on. */
async function hashOfSources(): Promise<string> {
  const hash = createHash("sha256");
  const files = ["src", "operator", "runtime-image", "scripts/images"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && !entry.parentPath.includes("/hf-cuda"))
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  const others = ["package.json", "package-lock.json", "tsconfig.json", "LICENSE"];
  for (const file of [...files, ...others.map((name) => join(ROOT, name))].sort())
    hash.update(`${relative(ROOT, file)}\0`).update(await readFile(file));
  return hash.digest("hex");
}

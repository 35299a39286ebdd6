import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clusterHome } from "../../scripts/cluster/home.ts";
import { imageBuilds } from "../../scripts/images/builds.ts";
import { stageImages } from "../../scripts/images/stage.ts";
import { packageVersion } from "../../src/cli/version.ts";
import type { TestCluster } from "./cluster.ts";

export interface BuiltImages {
  /** For the operator's `--image-registry`. */
  registry: string;
  /** Full names, for pods. */
  llmpool: string;
  llamaCpp: string;
}

/** Builds the images of these sources from the cluster's base, if anything of them changed, and brings them onto the real node. */
export async function buildImages(cluster: Pick<TestCluster, "baseImage" | "buildImage">): Promise<BuiltImages> {
  const staged = await mkdtemp(join(tmpdir(), "llmpool-images-"));
  try {
    await stageImages(staged);
    // Clusters beside each other may be of other checkouts, and share one image store.
    const registry = `llmpool.test/${clusterHome(process.env).slot}`;
    const builds = imageBuilds({ staged, registry, version: packageVersion(), base: cluster.baseImage });
    for (const build of builds) await cluster.buildImage(build);
    const tagOf = (name: string) => builds.find((build) => build.name === name)?.tag ?? "";
    return { registry, llmpool: tagOf("llmpool"), llamaCpp: tagOf("llama-cpp") };
  } finally {
    await rm(staged, { recursive: true, force: true });
  }
}

import { join } from "node:path";
import { ROOT } from "./stage.ts";

/** The images, in the order in which they are built: the others take from the first. */
export const IMAGES = ["llmpool", "llama-cpp", "hf-cuda"] as const;
export type ImageName = (typeof IMAGES)[number];

export interface ImageBuild {
  name: ImageName;
  dockerfile: string;
  /** The folder that its COPY lines read from. */
  context: string;
  tag: string;
  /** Values of the ARG lines. */
  args: Record<string, string>;
}

export interface BuildSettings {
  /** What `stageImages` wrote. */
  staged: string;
  /** Put in front of the names, as the operator's `--image-registry`: `registry.example.com/team`; "" for none. */
  registry: string;
  version: string;
  /** Another base than the Dockerfile's: with Node, for llmpool and llama-cpp. */
  base?: string | undefined;
  /** Another base of hf-cuda. */
  cudaBase?: string | undefined;
}

/** How each image is built. Their names are those that the operator gives to pods. */
export function imageBuilds({ staged, registry, version, base, cudaBase }: BuildSettings): ImageBuild[] {
  const tagOf = (name: ImageName) => `${registry === "" ? "" : `${registry}/`}llmpool/${name}:${version}`;
  const args: Record<ImageName, Record<string, string>> = {
    llmpool: base === undefined ? {} : { BASE: base },
    "llama-cpp": { BASE: tagOf("llmpool") },
    "hf-cuda": { LLMPOOL: tagOf("llmpool"), ...(cudaBase !== undefined && { BASE: cudaBase }) },
  };
  return IMAGES.map((name) => {
    const folder = join(ROOT, "runtime-image", name);
    const context = name === "hf-cuda" ? folder : join(staged, name);
    return { name, dockerfile: join(folder, "Dockerfile"), context, tag: tagOf(name), args: args[name] };
  });
}

export const TOOLS = ["buildah", "podman", "docker"] as const;
export type Tool = (typeof TOOLS)[number];

/** The command line that builds it. Times in the image are 1970's, so that the same sources make the same image. */
export function buildCommand(tool: Tool, { dockerfile, context, tag, args }: ImageBuild): string[] {
  const buildArgs = Object.entries(args).map(([name, value]) => `--build-arg=${name}=${value}`);
  const times = tool === "docker" ? "--build-arg=SOURCE_DATE_EPOCH=0" : "--timestamp=0";
  return [tool, "build", times, `--tag=${tag}`, `--file=${dockerfile}`, ...buildArgs, context];
}

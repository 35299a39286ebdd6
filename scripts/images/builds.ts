import { join } from "node:path";
import { ROOT } from "./stage.ts";

/** The images, in the order in which they are built: the second stands on the first. */
export const IMAGES = ["llmpool", "llama-cpp"] as const;
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
  /** Another base than the Dockerfile's. */
  base?: string | undefined;
}

/** How each image is built. Their names are those that the operator gives to pods. */
export function imageBuilds({ staged, registry, version, base }: BuildSettings): ImageBuild[] {
  const tagOf = (name: ImageName) => `${registry === "" ? "" : `${registry}/`}llmpool/${name}:${version}`;
  return IMAGES.map((name) => ({
    name,
    dockerfile: join(ROOT, "runtime-image", name, "Dockerfile"),
    context: join(staged, name),
    tag: tagOf(name),
    args: name === "llmpool" ? (base === undefined ? {} : { BASE: base }) : { BASE: tagOf("llmpool") },
  }));
}

export const TOOLS = ["buildah", "podman", "docker"] as const;
export type Tool = (typeof TOOLS)[number];

/** The command line that builds it. Times in the image are 1970's, so that the same sources make the same image. */
export function buildCommand(tool: Tool, { dockerfile, context, tag, args }: ImageBuild): string[] {
  const buildArgs = Object.entries(args).map(([name, value]) => `--build-arg=${name}=${value}`);
  const times = tool === "docker" ? "--build-arg=SOURCE_DATE_EPOCH=0" : "--timestamp=0";
  return [tool, "build", times, `--tag=${tag}`, `--file=${dockerfile}`, ...buildArgs, context];
}

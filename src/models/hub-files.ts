import { StartError } from "../api/instance.ts";
import type { HubFile } from "./hub-api.ts";

const PARTS = /^(.*)-\d{5}-of-(\d{5})\.gguf$/;

/** All that a safetensors model is loaded from. Pickles (`.bin`, `.pt`) and code (`.py`) are not among it: both run what they carry. */
const SNAPSHOT = /^[^/]+\.(safetensors|json|txt|jinja|model|tiktoken)$/;

/**
 * The files that a URI means: the named GGUF with the other parts of a split one; without a name the repository's snapshot, or its only GGUF.
 * @returns `folder` when the model is the folder, not a file.
 */
export function chooseFiles(
  all: readonly HubFile[],
  repo: string,
  name: string | undefined,
): { files: HubFile[]; folder: boolean } {
  if (name !== undefined) return { files: namedFile(all, repo, name), folder: false };
  const snapshot = all.filter((file) => SNAPSHOT.test(file.path));
  if (snapshot.some((file) => file.path.endsWith(".safetensors"))) return { files: snapshot, folder: true };
  const models = all.filter((file) => file.path.endsWith(".gguf"));
  const [only] = models;
  if (only && models.length === 1) return { files: [only], folder: false };
  if (only) throw nameOne(all, repo);
  throw new StartError(
    "ModelInvalid",
    `${repo} has neither .safetensors nor .gguf files (.bin and .pt are never loaded): choose another repository in model.uri`,
  );
}

function namedFile(all: readonly HubFile[], repo: string, name: string): HubFile[] {
  if (!name.endsWith(".gguf")) {
    throw new StartError(
      "ConfigInvalid",
      `model.uri may name only a .gguf file; write hf://${repo} for the whole repository`,
    );
  }
  const parts = PARTS.exec(name);
  const wanted = parts
    ? Array.from(
        { length: Number(parts[2]) },
        (_, i) => `${parts[1]}-${String(i + 1).padStart(5, "0")}-of-${parts[2]}.gguf`,
      )
    : [name];
  return wanted.map((path) => {
    const file = all.find((f) => f.path === path);
    if (!file) throw nameOne(all, repo, path);
    return file;
  });
}

function nameOne(all: readonly HubFile[], repo: string, missing?: string): StartError {
  const choices = all.filter((file) => file.path.endsWith(".gguf")).map((file) => `hf://${repo}/${file.path}`);
  const list = choices.length === 0 ? "it has none" : choices.slice(0, 20).join(", ");
  const why =
    missing === undefined ? `model.uri must name one of the files of ${repo}` : `${repo} has no file ${missing}`;
  return new StartError("ModelNotFound", `${why}: ${list}`);
}

import type { Backend } from "../../api/llmpool.ts";

/** What /v1/models lists: the last part of the URI, without revision, query and `.gguf`; `stub` for the stub. */
export function modelName(backend: Backend, uri: string | undefined): string {
  if (backend === "stub" || uri === undefined) return backend;
  const scheme = uri.slice(0, uri.indexOf("://"));
  let path = uri.slice(scheme.length + 3);
  if (scheme === "https") path = path.replace(/[?#].*$/, "");
  // A revision may hold slashes (refs/pr/1); a version stands before the file.
  if (scheme === "hf") path = path.replace(/@.*$/, "");
  if (scheme === "pypi") path = path.replace(/@[^/]*/, "");
  const last = path.split("/").filter(Boolean).at(-1) ?? backend;
  return last.replace(/[.]gguf$/i, "").replace(/-[0-9]{5}-of-[0-9]{5}$/, "");
}

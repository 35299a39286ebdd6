import { fileURLToPath } from "node:url";
import { StartError } from "../api/instance.ts";

/** A model URI, taken apart. `file` and `path` are relative, with `/`, and never leave their root. */
export type ModelUri =
  | { scheme: "file"; path: string }
  | { scheme: "https"; url: URL }
  | { scheme: "hf"; repo: string; file?: string; revision: string }
  | { scheme: "pypi"; name: string; version?: string; file?: string }
  | { scheme: "pvc"; claim: string; path: string };

const FORMS =
  "hf://org/repo[/file.gguf][@revision], file:///path, pvc://claim/path, https://host/file.gguf or pypi://package[@version][/file]";

/** Takes a `model.uri` apart. Throws StartError `ConfigInvalid`, which names the form to write instead. */
export function parseModelUri(uri: string): ModelUri {
  const scheme = /^([a-z]+):\/\//.exec(uri)?.[1];
  if (scheme === undefined) throw bad(uri, `write one of ${FORMS}`);
  const rest = uri.slice(scheme.length + 3);
  switch (scheme) {
    case "file":
      return { scheme, path: filePath(uri) };
    case "http":
    case "https":
      return { scheme: "https", url: webUrl(uri) };
    case "hf":
      return hubUri(uri, rest);
    case "pypi":
      return packageUri(uri, rest);
    case "pvc": {
      const [claim = "", ...path] = rest.split("/");
      if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(claim)) throw bad(uri, "write pvc://claim/path");
      return { scheme, claim, path: path.length === 0 ? "" : relativePath(uri, path.join("/"), true) };
    }
    case "oci":
      throw bad(uri, "oci:// is not available yet; use hf://, https://, pvc:// or file://");
    default:
      throw bad(uri, `${scheme}:// is not known; write one of ${FORMS}`);
  }
}

/** True for a path of plain segments: relative, no `.`, `..`, empty segment, backslash or control character. */
export function isSafePath(path: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be in a path
  return !/[\\\u0000-\u001f]/.test(path) && path.split("/").every((s) => s !== "" && s !== "." && s !== "..");
}

function relativePath(uri: string, path: string, mayBeEmpty = false): string {
  const trimmed = path.replace(/\/+$/, "");
  if (mayBeEmpty && trimmed === "") return "";
  if (!isSafePath(trimmed)) throw bad(uri, "the path must be relative, without empty segments, `.` or `..`");
  return trimmed;
}

function filePath(uri: string): string {
  try {
    return fileURLToPath(uri);
  } catch (error) {
    throw bad(uri, "write file:///absolute/path, with %20 for a space", error);
  }
}

function webUrl(uri: string): URL {
  let url: URL;
  try {
    url = new URL(uri);
  } catch (error) {
    throw bad(uri, "write https://host/path/file.gguf", error);
  }
  if (!isAllowedUrl(url)) throw bad(uri, "http:// is only for the loopback address; use https://");
  return url;
}

/** https anywhere; plain http only where nobody can listen in. */
export function isAllowedUrl(url: URL): boolean {
  if (url.protocol === "https:") return true;
  return url.protocol === "http:" && /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/.test(url.hostname);
}

function hubUri(uri: string, rest: string): ModelUri {
  const at = rest.indexOf("@");
  const [org = "", name = "", ...file] = (at < 0 ? rest : rest.slice(0, at)).split("/");
  const revision = at < 0 ? "main" : rest.slice(at + 1);
  const plain = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
  if (!plain.test(org) || !plain.test(name)) throw bad(uri, "write hf://org/repo[/file.gguf][@revision]");
  if (!/^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$/.test(revision) || !isSafePath(revision)) {
    throw bad(uri, "the revision after @ must be a branch, a tag or a commit");
  }
  const repo = `${org}/${name}`;
  if (file.length === 0) return { scheme: "hf", repo, revision };
  return { scheme: "hf", repo, file: relativePath(uri, file.join("/")), revision };
}

function packageUri(uri: string, rest: string): ModelUri {
  const match = /^([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)(?:@([A-Za-z0-9.!+]{1,64}))?(?:\/(.+))?$/.exec(rest);
  if (!match?.[1]) throw bad(uri, "write pypi://package[@version][/file.gguf]");
  return {
    scheme: "pypi",
    // The index's own normal form, so that one package has one place in the cache.
    name: match[1].toLowerCase().replace(/[-_.]+/g, "-"),
    ...(match[2] === undefined ? {} : { version: match[2] }),
    ...(match[3] === undefined ? {} : { file: relativePath(uri, match[3]) }),
  };
}

function bad(uri: string, cure: string, cause?: unknown): StartError {
  return new StartError("ConfigInvalid", `model.uri "${redact(uri)}": ${cure}`, { cause });
}

/** The URI as it may be shown, however badly it is written: without user, password and query, which may hold secrets. */
export function redact(uri: string): string {
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(uri)?.[0] ?? "";
  return scheme + withoutUser(uri.slice(scheme.length)).replace(/[?#].*$/s, "");
}

function withoutUser(rest: string): string {
  const authority = rest.replace(/[/?#].*$/s, "");
  if (!isPassword(authority)) return rest.slice(authority.lastIndexOf("@") + 1);
  // Nobody escaped it: it may hold `@` and what ends an authority. A query begins behind the host alone.
  const host = rest.indexOf("@") + 1;
  const end = host + (rest.slice(host).search(/[?#]/) + 1 || rest.length);
  return rest.slice(rest.slice(0, end).lastIndexOf("@") + 1);
}

/** Whether what stands behind the colon is no port. */
const isPassword = (authority: string): boolean => /:(?!\d*$)/.test(authority.replace(/^\[[^\]]*\]/, ""));

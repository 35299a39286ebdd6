import { StartError } from "../api/instance.ts";
import type { Context } from "./context.ts";
import { get, readText, refusal } from "./http.ts";
import { isAllowedUrl, isSafePath } from "./uri.ts";

/** The model hub of this call. `authorization` is for its own origin alone. */
export interface Hub {
  endpoint: string;
  authorization?: string;
}

/** What a revision means now: the commit, and the files that it holds. */
export interface Tree {
  commit: string;
  files: HubFile[];
}

export interface HubFile {
  path: string;
  bytes?: number;
  /** Only of large files. */
  sha256?: string;
}

export const HUB_ACCESS =
  "give a token that may read it, in HF_TOKEN (on a cluster: model.secretRef), and accept the model's licence on its page; a repository that does not exist answers the same";

/** `HF_ENDPOINT` or the public hub; the token given, or `HF_TOKEN`. */
export function hubOf(context: Context, token: string | undefined): Hub {
  const endpoint = (context.env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  const url = URL.parse(endpoint);
  if (!url || !isAllowedUrl(url)) {
    throw new StartError(
      "ConfigInvalid",
      "HF_ENDPOINT must be an https:// URL (http:// only for the loopback address)",
    );
  }
  const secret = token || context.env.HF_TOKEN;
  return secret ? { endpoint, authorization: `Bearer ${secret}` } : { endpoint };
}

export function isOffline(env: Context["env"]): boolean {
  return ["1", "on", "yes", "true"].includes((env.HF_HUB_OFFLINE ?? "").toLowerCase());
}

export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

export function fileUrl(hub: Hub, repo: string, commit: string, path: string): URL {
  return new URL(`${hub.endpoint}/${repo}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`);
}

/** Asks the hub, once. Throws TransientError when asking again may help. */
export async function readTree(context: Context, hub: Hub, repo: string, revision: string): Promise<Tree> {
  const url = new URL(`${hub.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`);
  const reply = await get(context, url, { authorization: hub.authorization });
  if (reply.status !== 200) throw refusal(reply, `${repo}@${revision}`, HUB_ACCESS);
  try {
    const { sha, siblings } = JSON.parse(await readText(reply)) as { sha: string; siblings: Sibling[] };
    if (!isCommit(sha)) throw new Error("no commit");
    // A path that would leave its folder is no file of a model.
    return { commit: sha, files: siblings.filter((s) => isSafePath(s.rfilename)).map(hubFile) };
  } catch (error) {
    if (error instanceof StartError) throw error;
    context.signal.throwIfAborted();
    throw new StartError("ModelDownloadFailed", `${url.host} does not answer as a model hub does: check HF_ENDPOINT`, {
      cause: error,
    });
  }
}

interface Sibling {
  rfilename: string;
  size?: number;
  lfs?: { sha256?: string; size?: number };
}

function hubFile({ rfilename, size, lfs }: Sibling): HubFile {
  const bytes = lfs?.size ?? size;
  const sha256 = lfs?.sha256;
  return {
    path: rfilename,
    ...(typeof bytes === "number" ? { bytes } : {}),
    ...(typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256) ? { sha256 } : {}),
  };
}

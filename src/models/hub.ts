import { rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { StartError } from "../api/instance.ts";
import type { Context, ResolvedModel } from "./context.ts";
import { download } from "./download.ts";
import { cached, complete, makeFolder, publish, readJson, replaceFile } from "./entry.ts";
import {
  fileUrl,
  HUB_ACCESS,
  type Hub,
  type HubFile,
  hubOf,
  isCommit,
  isOffline,
  readTree,
  type Tree,
} from "./hub-api.ts";
import { chooseFiles } from "./hub-files.ts";
import { ProgressMeter } from "./progress.ts";
import { TransientError, withRetries } from "./retry.ts";
import type { ModelUri } from "./uri.ts";

type HubUri = Extract<ModelUri, { scheme: "hf" }>;

/**
 * `hf://org/repo[/file.gguf][@revision]`. Everything lies under the commit that the revision meant, so a moved branch never mixes two
 * versions. Without a hub in reach, the commit that the revision last meant is used while it is whole in the cache.
 */
export async function fromHub(
  context: Context,
  uri: HubUri,
  token: string | undefined,
  sha256: string | undefined,
): Promise<ResolvedModel> {
  const hub = hubOf(context, token);
  const home = join(context.cacheDir, "hf", ...uri.repo.split("/"));
  const ref = join(home, "refs", encodeURIComponent(uri.revision));
  const last = isCommit(uri.revision) ? uri.revision : (await readJson<{ commit: string }>(ref))?.commit;
  const known = last === undefined ? undefined : await findModel(join(home, last), uri, sha256);
  if (known && isCommit(uri.revision)) return known;
  if (isOffline(context.env)) {
    if (known) return known;
    throw new StartError(
      "ModelDownloadFailed",
      `${uri.repo} is not in the cache, and HF_HUB_OFFLINE is set: unset it once`,
    );
  }
  const tree = await lookUp(context, hub, uri, known !== undefined);
  if (tree === undefined && known) return known;
  if (tree === undefined) throw new StartError("ModelDownloadFailed", `${uri.repo} cannot be looked up`);
  const model = await fetchModel(context, hub, uri, tree, join(home, tree.commit), sha256);
  if (!isCommit(uri.revision) && tree.commit !== last) {
    await makeFolder(dirname(ref));
    await replaceFile(ref, JSON.stringify({ commit: tree.commit }));
  }
  return model;
}

/** What the revision means now; undefined when the hub is out of reach and a cached copy can stand in. */
async function lookUp(context: Context, hub: Hub, uri: HubUri, haveCopy: boolean): Promise<Tree | undefined> {
  const ask = () => readTree(context, hub, uri.repo, uri.revision);
  if (!haveCopy) return withRetries(context, uri.repo, ask);
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof TransientError)) throw error;
    context.log.warn("the hub is out of reach; using the cached copy", { repo: uri.repo, cause: error.message });
    return undefined;
  }
}

async function fetchModel(
  context: Context,
  hub: Hub,
  uri: HubUri,
  tree: Tree,
  home: string,
  sha256: string | undefined,
): Promise<ResolvedModel> {
  const { files, folder } = chooseFiles(tree.files, uri.repo, uri.file);
  if (sha256 !== undefined && files.length > 1) {
    throw new StartError(
      "ConfigInvalid",
      `model.sha256 is of one file, and ${uri.repo} means ${files.length}: leave it out`,
    );
  }
  const draft = join(home, folder ? "snapshot.part" : "files");
  const total = files.reduce<number | undefined>(
    (sum, file) => (sum === undefined || file.bytes === undefined ? undefined : sum + file.bytes),
    0,
  );
  const peek = async () => ({ bytes: await bytesIn(draft, files), ...(total === undefined ? {} : { total }) });
  const name = `${uri.repo}${uri.file === undefined ? "" : `/${uri.file}`}@${uri.revision}`;
  const want = { key: `hf/${uri.repo}/${tree.commit}`, name, peek, find: () => findModel(home, uri, sha256) };
  return cached(context, want, async () => {
    const meter = new ProgressMeter(name, context.clock, context.onProgress);
    let before = 0;
    for (const file of files) {
      const base = before;
      const job = { url: fileUrl(hub, uri.repo, tree.commit, file.path), file, path: join(draft, file.path), sha256 };
      before += await fetchFile(context, hub, job, (bytes) => meter.at(base + bytes, total));
    }
    await replaceFile(join(home, listName(uri)), JSON.stringify({ files: files.map((f) => f.path), folder }));
    if (folder) {
      await rm(join(home, "snapshot"), { recursive: true, force: true });
      await rename(draft, join(home, "snapshot"));
    }
    const model = await findModel(home, uri, sha256);
    if (!model) throw new StartError("ModelDownloadFailed", `${name} vanished from the cache while it was fetched`);
    return model;
  });
}

/** Fetches one file unless it is there already. Resolves with its size in bytes. */
async function fetchFile(
  context: Context,
  hub: Hub,
  job: { url: URL; file: HubFile; path: string; sha256: string | undefined },
  onPosition: (bytes: number) => void,
): Promise<number> {
  const { url, file, path } = job;
  const here = await complete(path, job.sha256);
  if (here) return here.bytes;
  if (job.sha256 !== undefined && file.sha256 !== undefined && job.sha256 !== file.sha256) {
    throw new StartError(
      "ModelInvalid",
      `${file.path} has sha256 ${file.sha256} on the hub, and model.sha256 is ${job.sha256}`,
    );
  }
  await makeFolder(dirname(path));
  const facts = await download(context, {
    url,
    authorization: hub.authorization,
    part: `${path}.part`,
    name: file.path,
    sha256: file.sha256 ?? job.sha256,
    bytes: file.bytes,
    access: HUB_ACCESS,
    onPosition,
  });
  await publish(`${path}.part`, path, facts);
  return facts.bytes;
}

/** Where the list of files is that a URI turned into: written when all of them are whole. */
function listName(uri: HubUri): string {
  return uri.file === undefined ? "snapshot.json" : `${encodeURIComponent(uri.file)}.json`;
}

async function findModel(home: string, uri: HubUri, sha256: string | undefined): Promise<ResolvedModel | undefined> {
  const list = await readJson<{ files: string[]; folder: boolean }>(join(home, listName(uri)));
  if (!list) return undefined;
  const folder = join(home, list.folder ? "snapshot" : "files");
  let bytes = 0;
  let first: ResolvedModel | undefined;
  for (const file of list.files) {
    const model = await complete(join(folder, file), sha256);
    if (!model) return undefined;
    first ??= model;
    bytes += model.bytes;
  }
  if (list.folder) return { path: folder, bytes };
  return first && (list.files.length === 1 ? first : { path: first.path, bytes });
}

async function bytesIn(folder: string, files: readonly HubFile[]): Promise<number> {
  let bytes = 0;
  for (const { path } of files) {
    const whole = await stat(join(folder, path)).catch(() => stat(join(folder, `${path}.part`)).catch(() => undefined));
    bytes += whole?.size ?? 0;
  }
  return bytes;
}

import { createHash } from "node:crypto";
import { type Answer, type FakeWeb, file, json, redirect } from "./fake-web.ts";

export interface HubRepo {
  repo: string;
  revision: string;
  commit: string;
  files: Record<string, Buffer>;
  /** Files kept on another host, reached by a redirect, with their sha256 in the listing. */
  large?: string[];
}

/** Lets `web` answer as a model hub for one repository. Where a test wants faults, it sets that path's answers afterwards. */
export function serveRepo(web: FakeWeb, { repo, revision, commit, files, large = [] }: HubRepo): void {
  const siblings = Object.entries(files).map(([rfilename, content]) => ({
    rfilename,
    size: content.length,
    ...(large.includes(rfilename)
      ? { lfs: { sha256: createHash("sha256").update(content).digest("hex"), size: content.length } }
      : {}),
  }));
  const info = json({ id: repo, sha: commit, siblings });
  for (const name of [revision, commit])
    web.on(`/api/models/${repo}/revision/${encodeURIComponent(name)}?blobs=true`, info);
  for (const [name, content] of Object.entries(files)) {
    const cdn = `/cdn/${createHash("sha256").update(content).digest("hex").slice(0, 16)}`;
    const etag = `"${createHash("sha256").update(content).digest("hex")}"`;
    const here: Answer = file(content, { etag });
    web.on(cdn, here);
    web.on(filePath(repo, commit, name), large.includes(name) ? redirect(web.url(cdn, "localhost")) : here);
  }
}

export function filePath(repo: string, commit: string, name: string): string {
  return `/${repo}/resolve/${commit}/${name}`;
}

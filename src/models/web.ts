import { createHash } from "node:crypto";
import { basename, join } from "node:path";
import type { Context, ResolvedModel } from "./context.ts";
import { download } from "./download.ts";
import { cached, complete, makeFolder, publish } from "./entry.ts";
import { splitCredentials } from "./http.ts";
import { PartFile } from "./part-file.ts";
import { ProgressMeter } from "./progress.ts";

/** `https://…`: one file. Cached for ever under its URL; a changed `sha256` fetches it again. */
export async function fromWeb(context: Context, uri: URL, sha256: string | undefined): Promise<ResolvedModel> {
  const { url, authorization } = splitCredentials(uri);
  const key = createHash("sha256").update(url.href).digest("hex").slice(0, 32);
  const file = basename(decodeURIComponent(url.pathname)).replace(/[^A-Za-z0-9._-]/g, "_") || "model";
  const folder = join(context.cacheDir, "https", key);
  const path = join(folder, file);
  const part = `${path}.part`;
  const name = `${url.host}${url.pathname}`;
  const find = () => complete(path, sha256);
  return cached(context, { key: `https/${key}`, name, find, peek: () => PartFile.peek(part) }, async () => {
    await makeFolder(folder);
    const meter = new ProgressMeter(name, context.clock, context.onProgress);
    const facts = await download(context, {
      url,
      authorization,
      part,
      name,
      sha256,
      access: "the server wants credentials (https://user:password@host/… carries them)",
      onPosition: (bytes, total) => meter.at(bytes, total),
    });
    return publish(part, path, facts);
  });
}

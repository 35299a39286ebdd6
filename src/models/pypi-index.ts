import { StartError } from "../api/instance.ts";
import type { Context } from "./context.ts";
import { get, readText, refusal, splitCredentials } from "./http.ts";
import { withRetries } from "./retry.ts";
import { isAllowedUrl } from "./uri.ts";
import { compareVersions, isPrerelease } from "./version.ts";

/** A wheel as an index offers it. A `file:` URL is one that is on this machine already. */
export interface Wheel {
  version: string;
  url: URL;
  authorization?: string | undefined;
  sha256?: string | undefined;
}

interface Offer extends Wheel {
  yanked: boolean;
  anyPlatform: boolean;
}

export const ACCESS = "put user and password into PIP_INDEX_URL";

/** Asks a package index (PEP 503 and 691: JSON, or HTML where that is all it has) for the wheel of a version, or of the newest one. */
export async function wheelFromIndex(
  context: Context,
  index: string,
  name: string,
  version: string | undefined,
): Promise<Wheel> {
  const { url, authorization } = splitCredentials(indexUrl(index, name));
  const page = await withRetries(context, `the index entry of ${name}`, async () => {
    const accept = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
    const reply = await get(context, url, { headers: { accept }, authorization });
    if (reply.status !== 200) throw refusal(reply, `the package ${name}`, ACCESS);
    return {
      text: await readText(reply),
      url: reply.url,
      json: String(reply.headers["content-type"]).includes("json"),
    };
  });
  const offers = (page.json ? readJsonPage(page.text, page.url, name) : readHtmlPage(page.text, page.url)).filter(
    (offer) =>
      isAllowedUrl(offer.url) &&
      (version === undefined ? !offer.yanked : compareVersions(offer.version, version) === 0),
  );
  const stable = offers.filter((offer) => !isPrerelease(offer.version));
  const [best] = (stable.length > 0 ? stable : offers).sort(
    (a, b) => compareVersions(b.version, a.version) || Number(b.anyPlatform) - Number(a.anyPlatform),
  );
  if (!best) {
    const what = version === undefined ? name : `${name} ${version}`;
    throw new StartError("ModelNotFound", `the package index has no wheel of ${what}: check model.uri`);
  }
  // The index's credentials are for its own files, not for a file host elsewhere.
  const own = best.url.origin === url.origin ? authorization : undefined;
  return { version: best.version, url: best.url, sha256: best.sha256, authorization: own };
}

function indexUrl(index: string, name: string): URL {
  const url = URL.parse(`${index.replace(/\/+$/, "")}/${name}/`);
  if (url && isAllowedUrl(url)) return url;
  throw new StartError(
    "ConfigInvalid",
    "PIP_INDEX_URL must be an https:// URL (http:// only for the loopback address)",
  );
}

function readJsonPage(text: string, base: URL, name: string): Offer[] {
  let files: unknown;
  try {
    files = (JSON.parse(text) as { files?: unknown }).files;
  } catch {
    files = undefined;
  }
  if (!Array.isArray(files))
    throw new StartError("ModelDownloadFailed", `the package index gives no list of files for ${name}`);
  return files.flatMap((file: { filename?: unknown; url?: unknown; hashes?: { sha256?: unknown }; yanked?: unknown }) =>
    offer(String(file.filename), URL.parse(String(file.url), base.href), file.hashes?.sha256, Boolean(file.yanked)),
  );
}

function readHtmlPage(text: string, base: URL): Offer[] {
  const plainText = (value: string) => value.replace(/&(amp|gt|lt|quot|#39);/g, (_, e) => ENTITIES[e] ?? "");
  return [...text.matchAll(/<a\s([^>]*)>([^<]*)<\/a>/gi)].flatMap(([, attributes = "", label = ""]) => {
    const href = /href\s*=\s*(?:"([^"]*)"|'([^']*)')/i.exec(attributes);
    const url = URL.parse(plainText(href?.[1] ?? href?.[2] ?? ""), base.href);
    const sha256 = /^#sha256=([0-9a-f]{64})$/.exec(url?.hash ?? "")?.[1];
    return offer(plainText(label).trim(), url, sha256, /\bdata-yanked\b/i.test(attributes));
  });
}

const ENTITIES: Record<string, string> = { amp: "&", gt: ">", lt: "<", quot: '"', "#39": "'" };

function offer(filename: string, url: URL | null, sha256: unknown, yanked: boolean): Offer[] {
  // name-version(-build)?-python-abi-platform.whl
  const match = /^[^-]+-([^-]+)(?:-\d[^-]*)?-[^-]+-([^-]+)-([^-]+)\.whl$/.exec(filename);
  if (!match?.[1] || url === null) return [];
  url.hash = "";
  const known = typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256) ? sha256 : undefined;
  return [{ version: match[1], url, sha256: known, yanked, anyPlatform: match[2] === "none" && match[3] === "any" }];
}

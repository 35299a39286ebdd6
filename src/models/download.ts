import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { StartError } from "../api/instance.ts";
import type { Context } from "./context.ts";
import { get, type Reply, refusal } from "./http.ts";
import { PartFile } from "./part-file.ts";
import { TransientError, withRetries } from "./retry.ts";

export interface Download {
  url: URL;
  /** Sent to the URL's own origin only. */
  authorization?: string | undefined;
  /** Where the unfinished file lies; another call or process goes on with it. */
  part: string;
  /** For messages. */
  name: string;
  /** What somebody else promised: the index, the hub, the user. */
  sha256?: string | undefined;
  bytes?: number | undefined;
  /** What to do when access is denied. */
  access: string;
  onPosition: (bytes: number, total: number | undefined) => void;
}

/**
 * Fetches `want.url` into `want.part`, going on where an earlier try stopped, and resolves when it is whole and as promised.
 * Rejects with StartError; the unfinished file stays when going on later makes sense.
 */
export async function download(context: Context, want: Download): Promise<{ sha256: string; bytes: number }> {
  const part = await PartFile.open(want.part, want.url, context.signal);
  try {
    for (;;) {
      let before = part.bytes;
      const progressed = () => part.bytes > before;
      await withRetries(
        context,
        want.name,
        () => {
          before = part.bytes;
          return fetchRest(context, want, part);
        },
        progressed,
      );
      const sha256 = await part.finish();
      if (want.sha256 === undefined || want.sha256 === sha256) return { sha256, bytes: part.bytes };
      if (!part.resumed) throw invalid(want, `its sha256 is ${sha256}, and ${want.sha256} was promised`);
      // The bytes of an earlier try were of something else: once more, from the start.
      await part.restart();
    }
  } catch (error) {
    if (error instanceof StartError && error.reason !== "ModelDownloadFailed") await part.remove();
    throw error;
  } finally {
    await part.close();
  }
}

async function fetchRest(context: Context, want: Download, part: PartFile): Promise<void> {
  if (part.bytes > 0 && part.bytes === (want.bytes ?? part.facts.total)) return;
  // Going on is safe when the server can say that nothing changed, or when the whole is checked at the end.
  if (part.facts.validator === undefined && want.sha256 === undefined) await part.restart();
  const headers: Record<string, string> = {};
  if (part.bytes > 0) {
    headers.range = `bytes=${part.bytes}-`;
    if (part.facts.validator !== undefined) headers["if-range"] = part.facts.validator;
  }
  const reply = await get(context, want.url, { headers, authorization: want.authorization });
  const total = await accept(reply, want, part);
  if (want.bytes !== undefined && total !== undefined && total !== want.bytes) {
    reply.discard();
    throw invalid(want, `${reply.url.host} offers ${total} bytes, and ${want.bytes} were promised`);
  }
  const expected = total ?? want.bytes;
  const validator = validatorOf(reply);
  await part.begin({ ...(validator ? { validator } : {}), ...(expected === undefined ? {} : { total: expected }) });
  await checkSpace(want.part, expected, part.bytes);
  want.onPosition(part.bytes, expected);
  for await (const chunk of reply.body) {
    if (expected !== undefined && part.bytes + chunk.length > expected) {
      throw invalid(want, `${reply.url.host} sends more than the ${expected} bytes that were promised`);
    }
    await part.append(chunk);
    want.onPosition(part.bytes, expected);
  }
  if (expected !== undefined && part.bytes < expected) {
    throw new TransientError(`${reply.url.host} stopped after ${part.bytes} of ${expected} bytes`);
  }
}

/** Checks that the answer goes on where the file ends, or empties the file for a whole one. Returns the whole's size where known. */
async function accept(reply: Reply, want: Download, part: PartFile): Promise<number | undefined> {
  const encoding = reply.headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") {
    reply.discard();
    throw new StartError(
      "ModelDownloadFailed",
      `${reply.url.host} sends ${want.name} compressed although asked not to`,
    );
  }
  if (reply.status === 200) {
    if (part.bytes > 0) await part.restart();
    const length = reply.headers["content-length"];
    return typeof length === "string" ? Number(length) : undefined;
  }
  if (reply.status === 206 && part.bytes > 0) {
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(String(reply.headers["content-range"]));
    const total = range?.[2] === undefined || range[2] === "*" ? undefined : Number(range[2]);
    const sameTotal = total === undefined || part.facts.total === undefined || total === part.facts.total;
    if (range && Number(range[1]) === part.bytes && sameTotal) return total;
  } else if (reply.status !== 416) {
    throw refusal(reply, want.name, want.access);
  }
  reply.discard();
  await part.restart();
  throw new TransientError(`${reply.url.host} cannot go on where the download stopped`);
}

function validatorOf(reply: Reply): string | undefined {
  const etag = reply.headers.etag;
  if (typeof etag === "string" && etag.startsWith('"')) return etag;
  const modified = reply.headers["last-modified"];
  return typeof modified === "string" ? modified : undefined;
}

async function checkSpace(path: string, total: number | undefined, have: number): Promise<void> {
  if (total === undefined) return;
  const disk = await statfs(dirname(path));
  const free = disk.bavail * disk.bsize;
  if (free >= total - have) return;
  const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);
  throw new StartError(
    "ModelDownloadFailed",
    `the disk of ${dirname(path)} has ${gib(free)} GiB free and ${gib(total - have)} GiB are needed: free space, or set LLMPOOL_CACHE to another folder (on a cluster: raise model.cache.storage)`,
  );
}

function invalid(want: Download, what: string): StartError {
  return new StartError(
    "ModelInvalid",
    `${want.name} is not what was promised: ${what}; check model.uri and model.sha256`,
  );
}

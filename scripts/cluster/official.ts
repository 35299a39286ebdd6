import { createHash } from "node:crypto";
import { chmod, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { command } from "./command.ts";
import { PROGRAMS, type ProgramName } from "./modules.ts";

/** A published program: its address, that of its SHA-256, and the name inside when it is an archive. */
interface Release {
  url: string;
  checksum: string;
  member?: string;
}

/** Where each project publishes its program with a checksum; KWOK publishes none, so that is always built. */
export function releaseOf(name: ProgramName, version: string, os: string, arch: string): Release | undefined {
  const file = (base: string, asset: string, checksum: string) => ({
    url: `${base}/${asset}`,
    checksum: `${base}/${checksum}`,
  });
  switch (PROGRAMS[name].module) {
    case "kubernetes":
      return file(`https://dl.k8s.io/release/v${version}/bin/${os}/${arch}`, name, `${name}.sha256`);
    case "etcd": {
      const asset = `etcd-v${version}-${os}-${arch}`;
      const base = `https://github.com/etcd-io/etcd/releases/download/v${version}`;
      return { ...file(base, `${asset}.tar.gz`, "SHA256SUMS"), member: `${asset}/etcd` };
    }
    case "helm": {
      const asset = `helm-v${version}-${os}-${arch}.tar.gz`;
      return { ...file("https://get.helm.sh", asset, `${asset}.sha256sum`), member: `${os}-${arch}/helm` };
    }
    case "coredns": {
      const asset = `coredns_${version}_${os}_${arch}.tgz`;
      const base = `https://github.com/coredns/coredns/releases/download/v${version}`;
      return { ...file(base, asset, `${asset}.sha256`), member: "coredns" };
    }
    default:
      return undefined;
  }
}

/** How long a host may take to begin its answer, before it counts as out of reach. */
const REACH_MS = 5000;
const unreachable = new Set<string>();

/**
 * Downloads and checks one release into `file`. False when its host cannot be reached or has no such file; throws when what came is not
 * what was published.
 */
export async function download(release: Release, file: string): Promise<boolean> {
  const sums = await get(release.checksum);
  const archive = sums && (await get(release.url));
  if (!archive) return false;
  const asset = release.url.split("/").at(-1) ?? "";
  const wanted = checksumOf(sums.toString("utf8"), asset);
  const got = createHash("sha256").update(archive).digest("hex");
  if (got !== wanted) throw new Error(`${release.url} has SHA-256 ${got}, published is ${wanted}`);
  if (release.member === undefined) {
    await writeFile(file, archive);
  } else {
    const dir = await mkdtemp(join(dirname(file), "unpack-"));
    try {
      await writeFile(join(dir, asset), archive);
      await command("tar", ["-xzf", asset, release.member], { cwd: dir });
      await rename(join(dir, release.member), file);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }
  await chmod(file, 0o755);
  return true;
}

/** The checksum of `asset` in a list of `<hex> [*]<file>` lines, or in a file that is only the checksum. */
function checksumOf(sums: string, asset: string): string | undefined {
  const rows = sums
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+\*?/));
  const row = rows.find(([, name]) => name !== undefined && name.split("/").at(-1) === asset);
  return (row ?? (rows.length === 1 ? rows[0] : undefined))?.[0];
}

async function get(url: string): Promise<Buffer | undefined> {
  const { host } = new URL(url);
  if (unreachable.has(host)) return undefined;
  const tooSlow = new AbortController();
  const timer = setTimeout(() => tooSlow.abort(), REACH_MS);
  try {
    const response = await fetch(url, { signal: tooSlow.signal });
    clearTimeout(timer);
    if (!response.ok) {
      await response.body?.cancel();
      return undefined;
    }
    return Buffer.from(await response.arrayBuffer());
  } catch {
    unreachable.add(host);
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

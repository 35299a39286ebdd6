import { createHash } from "node:crypto";
import { existsSync, realpathSync, statSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { command } from "./command.ts";

/** The C and C++ runtimes, a shell, and the libraries these need. */
const PACKAGES = [
  ...["libc6", "libgcc-s1", "libstdc++6", "libgomp1"],
  ...["dash", "coreutils", "libacl1", "libattr1", "libgmp10", "libselinux1", "libpcre2-8-0"],
];
/** Python, for what stands on more than the base. */
export const PYTHON_PACKAGES = [
  ...["python3", "python3-minimal", "python3.11", "python3.11-minimal", "python3-venv", "python3.11-venv"],
  ...[
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libpython3-stdlib",
    "python3-pip-whl",
    "python3-setuptools-whl",
  ],
  ...["libexpat1", "zlib1g", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libcrypt1"],
];
const LEFT_OUT = /^\/usr\/share\/(doc|doc-base|info|lintian|locale|man|bug)\//;
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";
const IDS = {
  passwd: "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/sh\n",
  group: "root:x:0:\nnonroot:x:65532:\n",
};

/**
 * Packs the files of an image from this machine's own Debian packages and Node, because no registry can be reached. Returns the archive, in
 * `dir`, with a name that changes only when what is in it changes. `more`: packages besides. Throws CommandError where one is not installed.
 */
export async function packBase(dir: string, more: readonly string[] = []): Promise<string> {
  const packages = [...PACKAGES, ...more];
  const versions = await command("dpkg-query", ["--show", ...packages]);
  const node = realpathSync(process.execPath);
  const key = createHash("sha256")
    .update(versions)
    .update(`${process.version} ${statSync(node).size}`);
  const archive = join(dir, `base-${key.digest("hex").slice(0, 16)}.tar`);
  if (existsSync(archive)) return archive;
  await mkdir(dir, { recursive: true });
  for (const older of await readdir(dir))
    if (/^(base|root|files)-/.test(older)) await rm(join(dir, older), { recursive: true });
  const root = await mkdtemp(join(dir, "root-"));
  try {
    await copyPackages(root, packages);
    await mkdir(join(root, "usr/local/bin"), { recursive: true });
    await copyFile(node, join(root, "usr/local/bin/node"));
    for (const [name, text] of Object.entries(IDS)) await writeFile(join(root, "etc", name), text);
    await command("install", ["-d", "-m", "1777", join(root, "tmp")]);
    const same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    await command("tar", ["-C", root, ...same, "-cf", `${archive}.${process.pid}`, "."]);
    await rename(`${archive}.${process.pid}`, archive);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
  return archive;
}

async function copyPackages(root: string, packages: readonly string[]): Promise<void> {
  const listed = (await command("dpkg", ["--listfiles", ...packages])).split("\n");
  const files = [...listed, existsSync(CERTIFICATES) ? CERTIFICATES : ""]
    .filter((file) => file.startsWith("/") && !LEFT_OUT.test(file) && existsSync(file) && !isFolder(file))
    // Packages still say /bin and /lib, which are links into /usr.
    .map((file) => join(realpathSync(dirname(file)), file.slice(dirname(file).length)));
  const packed = join(root, "..", `files-${process.pid}.tar`);
  try {
    await command("tar", ["-C", "/", "--null", "--files-from=-", "-cf", packed], {
      input: [...new Set(files)]
        .sort()
        .map((file) => `${file.slice(1)}\0`)
        .join(""),
    });
    await command("tar", ["-C", root, "-xf", packed]);
  } finally {
    await rm(packed, { force: true });
  }
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    if (existsSync(join(root, "usr", name)) && !existsSync(join(root, name)))
      await symlink(`usr/${name}`, join(root, name));
  }
  await mkdir(join(root, "etc"), { recursive: true });
}

function isFolder(file: string): boolean {
  return statSync(file).isDirectory();
}

/** An entry of package-lock.json, as far as it is read here. */
export interface LockedPackage {
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  peerDependenciesMeta?: Record<string, { optional?: boolean }>;
  engines?: Record<string, string>;
  os?: readonly string[];
  cpu?: readonly string[];
  libc?: readonly string[];
}

/** `packages` of package-lock.json, by folder: `node_modules/a`, `node_modules/a/node_modules/b`; the project itself is "". */
export type Locked = Readonly<Record<string, LockedPackage>>;

/** What an image runs on. All of ours are Linux with glibc. */
export interface Platform {
  /** As Node names it: `x64`, `arm64`. */
  cpu: string;
}

const TYPES = /(^|\/)node_modules\/@types\//;
/** Engines of one platform. Vulkan's is left out: it needs a driver's library that no container has by itself. */
const ENGINES = "node_modules/@node-llama-cpp/";

/** Folders of the packages that `roots` need at run time, themselves included, sorted: what `npm ci --omit=dev` would install for the platform. */
export function packagesOf(locked: Locked, roots: readonly string[], platform: Platform): string[] {
  const found = new Set<string>();
  const visit = (folder: string | undefined) => {
    const entry = folder === undefined ? undefined : locked[folder];
    if (folder === undefined || !entry || found.has(folder) || !runsOn(folder, entry, platform)) return;
    found.add(folder);
    for (const name of needed(entry)) visit(resolveFrom(locked, folder, name));
  };
  for (const name of roots) visit(resolveFrom(locked, "", name));
  return [...found].sort();
}

function needed({ dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta }: LockedPackage) {
  const peers = Object.keys(peerDependencies ?? {}).filter((name) => !peerDependenciesMeta?.[name]?.optional);
  return [...Object.keys({ ...dependencies, ...optionalDependencies }), ...peers];
}

function runsOn(folder: string, { os, cpu, libc, engines }: LockedPackage, platform: Platform): boolean {
  const fits = (allowed: readonly string[] | undefined, ours: string) => allowed?.includes(ours) ?? true;
  const forNode = engines?.node !== undefined || Object.keys(engines ?? {}).length === 0;
  const platformFits = fits(os, "linux") && fits(cpu, platform.cpu) && fits(libc, "glibc");
  // Its entries allow machines that could only compile for the platform.
  const wanted = folder.startsWith(ENGINES) ? folder === `${ENGINES}linux-${platform.cpu}` : !TYPES.test(folder);
  return forNode && platformFits && wanted;
}

/** As Node looks for a package: in the folder's own node_modules, then in those above. */
function resolveFrom(locked: Locked, folder: string, name: string): string | undefined {
  for (let from = folder; ; from = from.slice(0, Math.max(0, from.lastIndexOf("/node_modules/")))) {
    const candidate = `${from === "" ? "" : `${from}/`}node_modules/${name}`;
    if (locked[candidate]) return candidate;
    if (from === "") return undefined;
  }
}

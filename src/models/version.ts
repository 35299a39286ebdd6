/** Orders Python package versions: by release numbers, then pre-releases before their release. Enough to pick the newest; not all of PEP 440. */
export function compareVersions(a: string, b: string): number {
  const left = parse(a);
  const right = parse(b);
  for (let i = 0; i < Math.max(left.release.length, right.release.length); i++) {
    const difference = (left.release[i] ?? 0) - (right.release[i] ?? 0);
    if (difference !== 0) return difference;
  }
  if (left.rank !== right.rank) return left.rank - right.rank;
  return left.rest.localeCompare(right.rest, "en", { numeric: true });
}

/** A development, alpha, beta or candidate version: taken only when it is asked for. */
export function isPrerelease(version: string): boolean {
  return parse(version).rank < 0;
}

function parse(version: string): { release: number[]; rank: number; rest: string } {
  const match = /^v?(?:(\d+)!)?(\d+(?:\.\d+)*)(.*)$/.exec(version.toLowerCase());
  const rest = match?.[3] ?? "";
  const release = (match?.[2] ?? "0").split(".").map(Number);
  const rank = /^[._-]?dev/.test(rest) ? -2 : /^[._-]?(a|b|c|rc|alpha|beta|pre|preview)[._-]?\d*/.test(rest) ? -1 : 0;
  return { release: [Number(match?.[1] ?? 0), ...release], rank, rest };
}

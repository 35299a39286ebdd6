/** What a server says of itself, and why it cannot hold state that must not be lost; the text names the cure. */
export function checkServer(info: ReadonlyMap<string, string>, allowVolatile: boolean): string | undefined {
  const version = info.get("redis_version") ?? "";
  const role = info.get("role");
  if (Number.parseInt(version, 10) < 7) return `it is Redis ${version}: version 7.0 or newer is needed, or Valkey`;
  if (role !== "master") return `it is a ${role}: give the URL of the primary`;
  if (info.get("aof_enabled") !== "1" && !allowVolatile) {
    return (
      "it has no append-only file, so a restart would forget what was spent: set `appendonly yes` (best with `appendfsync always`), " +
      "or accept that by `allow-volatile: true` in the Secret with its URL"
    );
  }
  return undefined;
}

/** `name:value` lines of INFO. */
export function parseInfo(text: string): Map<string, string> {
  const lines = text.split("\r\n").filter((line) => line.includes(":"));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]));
}

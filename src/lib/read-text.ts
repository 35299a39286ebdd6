import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { messageOf } from "./errors.ts";

/** The text of a file that a user named. Rejects with a line for that user, who knows what `file` is relative to. */
export async function readText(cwd: string, file: string): Promise<string> {
  try {
    return await readFile(resolve(cwd, file), "utf8");
  } catch (cause) {
    throw new Error(isMissing(cause) ? `there is no file ${file}` : `${file} ${whyUnread(cause)}`, { cause });
  }
}

/** For a line that begins with the file's name: Node's text without the path at its end. */
export const whyUnread = (cause: unknown): string =>
  isMissing(cause) ? "there is no such file" : `cannot be read: ${messageOf(cause).replace(/, \w+( '.*')?$/, "")}`;

const isMissing = (cause: unknown): boolean => (cause as NodeJS.ErrnoException).code === "ENOENT";

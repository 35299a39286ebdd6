import { InvalidArgumentError } from "commander";
import { plainWidth, toWidth } from "../dev/text.ts";
import { format } from "./output.ts";

const LIST_OUTPUTS = ["wide", "name", "json", "yaml"] as const;
export type ListOutput = (typeof LIST_OUTPUTS)[number];

export const LIST_OUTPUT_HELP = "wide, name, json or yaml";

/** Parses the value of `-o` of a command that lists. */
export function listOutput(text: string): ListOutput {
  const output = LIST_OUTPUTS.find((known) => known === text);
  if (output === undefined) throw new InvalidArgumentError(`write ${LIST_OUTPUT_HELP}.`);
  return output;
}

export interface Column<T> {
  title: string;
  cell: (row: T) => string;
  /** Only with `-o wide`. */
  wide?: boolean;
}

/** A list as `kubectl get` prints it: columns without lines between them, whole objects, or just their names. */
export function printList<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  output: ListOutput | undefined,
  nameOf: (row: T) => string,
): string {
  if (output === "json" || output === "yaml") return format(rows, output);
  if (output === "name") return rows.map((row) => `${nameOf(row)}\n`).join("");
  const shown = columns.filter((column) => output === "wide" || !column.wide);
  const lines = [shown.map((c) => c.title), ...rows.map((row) => shown.map((c) => c.cell(row) || "-"))];
  const widths = shown.map((_, i) => Math.max(...lines.map((line) => plainWidth(line[i] ?? ""))));
  return lines
    .map(
      (line) =>
        `${line
          .map((text, i) => toWidth(text, widths[i] ?? 0))
          .join("   ")
          .trimEnd()}\n`,
    )
    .join("");
}

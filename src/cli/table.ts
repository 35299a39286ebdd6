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

/** `45s`, `12m`, `3h12m`, `2d4h`: a duration as kubectl shows an age. */
export function durationText(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s}s`;
  const m = Math.floor(s / 60);
  if (m < 60) return m < 10 && s % 60 > 0 ? `${m}m${s % 60}s` : `${m}m`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 > 0 ? `${h}h${m % 60}m` : `${h}h`;
  return h % 24 > 0 ? `${Math.floor(h / 24)}d${h % 24}h` : `${Math.floor(h / 24)}d`;
}

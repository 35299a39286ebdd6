import type { Goal, Result } from "./bench.ts";
import type { Summary } from "./samples.ts";

/** The result as lines of text: median, then the range over the rounds. */
export function formatResult({ columns, rows, goals }: Result): string {
  const cells = [
    ["", ...columns],
    ...rows.map(({ name, values, note }) => [name, ...values.map((v) => (v ? formatSummary(v) : "-")), note ?? ""]),
  ];
  const widths = cells[0]?.map((_, column) => Math.max(...cells.map((line) => line[column]?.length ?? 0))) ?? [];
  const lines = cells.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return [...lines, ...goals.map(formatGoal)].join("\n");
}

function formatGoal({ text, measured, kept }: Goal): string {
  return `${kept ? "kept  " : "MISSED"} ${text}: ${formatSummary(measured)}`;
}

function formatSummary({ median, min, max, rounds }: Summary): string {
  return rounds === 1 ? short(median) : `${short(median)} (${short(min)}..${short(max)})`;
}

/** Three significant digits, and no exponent. */
function short(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 3));
}

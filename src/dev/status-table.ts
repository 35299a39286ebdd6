import type { InstanceObject } from "../api/http.ts";
import type { InstanceState } from "../api/instance.ts";
import { paint, plainWidth, toWidth } from "./text.ts";

/** One row: what the router knows of an instance, and how far its loading is. */
export type InstanceRow = InstanceObject & { progress?: number };

const COLUMNS: { title: string; right?: boolean; cell: (row: InstanceRow) => string }[] = [
  { title: "INSTANCE", cell: (row) => row.id },
  { title: "STATE", cell: stateText },
  { title: "ROLES", cell: (row) => row.roles.join(",") || "-" },
  { title: "DEVICE", cell: (row) => row.device ?? "-" },
  { title: "SESSIONS", right: true, cell: (row) => String(row.sessions) },
  { title: "QUEUE", right: true, cell: (row) => String(row.queued) },
  {
    title: "TOK/S",
    right: true,
    cell: (row) => (row.tokens_per_second === null ? "-" : row.tokens_per_second.toFixed(0)),
  },
  { title: "RESTARTS", right: true, cell: (row) => String(row.restarts) },
  { title: "MESSAGE", cell: (row) => row.message ?? "" },
];

const GAP = "  ";

/** Lines of one table, none wider than `width` characters. Colours only when `color`. */
export function statusTable(rows: readonly InstanceRow[], width: number, color: boolean): string[] {
  const cells = rows.map((row) => COLUMNS.map((column) => column.cell(row)));
  const widths = COLUMNS.map((column, i) =>
    Math.max(column.title.length, ...cells.map((row) => plainWidth(row[i] ?? ""))),
  );
  const line = (texts: readonly string[]) =>
    texts
      .map((text, i) => toWidth(text, widths[i] ?? 0, COLUMNS[i]?.right))
      .join(GAP)
      .trimEnd();
  const body = rows.map((row, i) => {
    const text = toWidth(line(cells[i] ?? []), width).trimEnd();
    return color ? paintState(text, row) : text;
  });
  return [toWidth(line(COLUMNS.map((column) => column.title)), width).trimEnd(), ...body];
}

export function stateText({ state, progress }: Pick<InstanceRow, "state" | "progress">): string {
  return progress === undefined ? state : `${state} ${Math.floor(progress * 100)}%`;
}

const COLORS: Record<InstanceState, Parameters<typeof paint>[1]> = {
  Pending: "dim",
  Loading: "yellow",
  WarmingUp: "yellow",
  Ready: "green",
  Draining: "cyan",
  Failed: "red",
};

/** The state's own word; it stands behind the id, so its first occurrence may be in the id of a variant. */
function paintState(line: string, row: InstanceRow): string {
  const from = row.id.length;
  return line.slice(0, from) + line.slice(from).replace(row.state, (word) => paint(word, COLORS[row.state]));
}

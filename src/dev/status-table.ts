import type { InstanceObject } from "../api/http.ts";
import type { InstanceState } from "../api/instance.ts";
import { paint, plainWidth, toWidth, wrap } from "./text.ts";

/** One row: what the router knows of an instance, and how far its loading is. */
export type InstanceRow = InstanceObject & { progress?: number };

interface StatusColumn {
  title: string;
  right?: boolean;
  cell: (row: InstanceRow) => string;
}

const COLUMNS: readonly StatusColumn[] = [
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

/** In a narrow terminal columns go in this order, until the others fit. A message then has lines of its own. */
const DISPENSABLE = ["MESSAGE", "SESSIONS", "TOK/S", "QUEUE", "DEVICE", "ROLES", "RESTARTS"];

const GAP = "  ";

/** Lines of one table, none wider than `width` characters. Colours only when `color`. */
export function statusTable(rows: readonly InstanceRow[], width: number, color: boolean): string[] {
  const columns = fitting(rows, width);
  const line = (cells: readonly string[]) =>
    toWidth(
      cells
        .map((text, i) => toWidth(text, columns[i]?.width ?? 0, columns[i]?.right))
        .join(GAP)
        .trimEnd(),
      width,
    ).trimEnd();
  const below = !columns.some(({ title }) => title === "MESSAGE");
  return [
    line(columns.map(({ title }) => title)),
    ...rows.flatMap((row) => {
      const text = line(columns.map(({ cell }) => cell(row)));
      const message = below && row.message ? wrap(row.message, width, GAP) : [];
      return [color ? paintState(text, row) : text, ...message];
    }),
  ];
}

/** The columns that have room, with their widths. */
function fitting(rows: readonly InstanceRow[], width: number): (StatusColumn & { width: number })[] {
  let columns = COLUMNS.map((column) => ({
    ...column,
    width: Math.max(column.title.length, ...rows.map((row) => plainWidth(column.cell(atItsWidest(row))))),
  }));
  for (const title of DISPENSABLE) {
    const all = columns.reduce((sum, column) => sum + column.width, 0) + GAP.length * (columns.length - 1);
    if (all <= width) break;
    columns = columns.filter((column) => column.title !== title);
  }
  return columns;
}

/** So that no column moves while a model loads. */
const atItsWidest = (row: InstanceRow): InstanceRow => (row.progress === undefined ? row : { ...row, progress: 1 });

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

import { expect, test } from "vitest";
import { type Column, printList } from "./table.ts";

interface Row {
  id: string;
  note: string;
}
const rows: Row[] = [
  { id: "a", note: "first" },
  { id: "bcd", note: "" },
  { id: "e", note: "\x1b[31mred\x1b[0m\n" },
];
const columns: Column<Row>[] = [
  { title: "ID", cell: (row) => row.id },
  { title: "NOTE", cell: (row) => row.note },
  { title: "MORE", cell: () => "x", wide: true },
];
const id = (row: Row) => row.id;

test("prints columns without lines, - for nothing, and no control characters", () => {
  expect(printList(rows.slice(0, 2), columns, undefined, id)).toBe("ID    NOTE\na     first\nbcd   -\n");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these must not be there.
  expect(printList(rows, columns, undefined, id)).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
});

test("prints more columns, names, JSON or YAML when asked", () => {
  expect(printList(rows.slice(0, 1), columns, "wide", id)).toBe("ID   NOTE    MORE\na    first   x\n");
  expect(printList(rows, columns, "name", id)).toBe("a\nbcd\ne\n");
  expect(JSON.parse(printList(rows, columns, "json", id))).toEqual(rows);
  expect(printList(rows.slice(0, 1), columns, "yaml", id)).toBe("- id: a\n  note: first\n");
});

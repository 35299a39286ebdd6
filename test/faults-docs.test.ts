import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** A file in backticks, and the tests in quotes after it. */
const REFERENCE = /`([^`\s]+\.ts)`((?:,? "[^"]*")*)/g;

/** Pages with tables of faults, and how many tests each names at least. */
const PAGES: [page: string, tests: number][] = [
  ["docs/router-faults.md", 40],
  ["docs/faults.md", 40],
];

test.each(PAGES)("every test that %s names is there", (page, least) => {
  const rows = readFileSync(join(root, page), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("| "));
  const missing: string[] = [];
  let named = 0;
  for (const [, file = "", names = ""] of rows.join("\n").matchAll(REFERENCE)) {
    const text = existsSync(join(root, file)) ? readFileSync(join(root, file), "utf8") : "";
    if (text === "") missing.push(file);
    for (const [, name = ""] of names.matchAll(/"([^"]*)"/g)) {
      named++;
      if (!text.includes(`"${name}"`)) missing.push(`${file} "${name}"`);
    }
  }
  expect(missing).toEqual([]);
  expect(named).toBeGreaterThan(least);
});

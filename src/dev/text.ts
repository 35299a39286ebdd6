import { stripVTControlCharacters } from "node:util";

const CODES = { red: 31, green: 32, yellow: 33, cyan: 36, dim: 2, bold: 1 } as const;

export const paint = (text: string, color: keyof typeof CODES): string => `\x1b[${CODES[color]}m${text}\x1b[0m`;

/** Columns a text takes, for the letters that appear here. */
export const plainWidth = (text: string): number => [...stripVTControlCharacters(text)].length;

/** Exactly `width` columns: cut with an ellipsis, or filled up. Control characters of foreign texts become spaces. */
export function toWidth(text: string, width: number, right = false): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not reach a terminal.
  const letters = [...text.replace(/[\x00-\x1f\x7f-\x9f]/g, " ")];
  if (letters.length > width) return width < 1 ? "" : `${letters.slice(0, width - 1).join("")}…`;
  const fill = " ".repeat(width - letters.length);
  return right ? fill + letters.join("") : letters.join("") + fill;
}

/** Lines of at most `width` columns, each with `indent` before it, broken between words; a longer word is cut. */
export function wrap(text: string, width: number, indent: string): string[] {
  const room = Math.max(1, width - indent.length);
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (last !== undefined && plainWidth(last) + 1 + plainWidth(word) <= room)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines.map((line) => toWidth(indent + line, Math.min(width, indent.length + plainWidth(line))).trimEnd());
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];

/** `92.9 MB`: decimal, as downloads are counted. */
export function bytesText(bytes: number): string {
  const power = Math.min(UNITS.length - 1, bytes < 1 ? 0 : Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${power === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[power]}`;
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

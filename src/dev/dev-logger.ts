import type { CliIo } from "../cli/io.ts";
import { type Logger, type LogLevel, makeLogger } from "../lib/logger.ts";
import type { View } from "./view.ts";

const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error", "silent"];

/** On a terminal, warnings in words above the table; elsewhere JSON lines on standard error. `LLMPOOL_LOG` sets the level (warn). */
export function devLogger(io: CliIo, view: View): Logger {
  const level = LEVELS.find((name) => name === io.env.LLMPOOL_LOG) ?? "warn";
  return makeLogger(level, io.terminal ? (line) => view.line(inWords(line)) : io.stderr);
}

function inWords(line: string): string {
  const { level, msg, ts: _ts, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const details = Object.entries(fields).map(
    ([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return [`${String(level)}: ${String(msg)}`, ...details].join(" ");
}

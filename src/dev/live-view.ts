import type { Terminal } from "../cli/io.ts";
import type { Clock } from "../lib/clock.ts";
import type { DownloadProgress } from "../models/progress.ts";
import { EpisodeLines } from "./episode-lines.ts";
import { type InstanceRow, statusTable } from "./status-table.ts";
import { bytesText, paint, plainWidth, toWidth } from "./text.ts";
import type { View } from "./view.ts";

/** Pictures are drawn at most this often. */
const FRAME_MS = 100;
const HIDE_CURSOR = "\x1b[?25l";
const SHOW_CURSOR = "\x1b[?25h";
/** Terminals that know it show everything between the two at once; others ignore it. */
const BEGIN_FRAME = "\x1b[?2026h";
const END_FRAME = "\x1b[?2026l";
const CLEAR_LINE = "\x1b[K";
const CLEAR_BELOW = "\x1b[J";

/**
 * A table that stays in its place, with the active episodes below it: each picture is written over the one before, line by line, so nothing
 * flickers. News appear above it and scroll away as usual.
 */
export function liveView(terminal: Terminal, clock: Clock): View {
  let news: string[] = [];
  const episodes = new EpisodeLines();
  let picture: { title: string; rows: readonly InstanceRow[] } | undefined;
  let download: DownloadProgress | undefined;
  /** Lines that stand on the screen now. */
  let drawn: string[] = [];
  let drawnWidth = 0;
  let cancel: (() => void) | undefined;
  let closed = false;
  const stopResize = terminal.onResize(() => schedule());
  terminal.write(HIDE_CURSOR);

  function schedule(): void {
    if (!closed) cancel ??= clock.after(FRAME_MS, draw);
  }

  function draw(): void {
    cancel = undefined;
    const width = Math.max(20, terminal.columns());
    // After a resize the old lines may have been wrapped: they take as many rows as their letters need now.
    const rows = drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(plainWidth(line) / width)), 0);
    const lines = compose(width, Math.max(4, terminal.rows()) - 1);
    if (news.length === 0 && width === drawnWidth && lines.join("\n") === drawn.join("\n")) return;
    const up = rows > 0 ? `\x1b[${rows}A\r` : "";
    const text = [...news, ...lines].map((line) => `${line}${CLEAR_LINE}\n`).join("");
    terminal.write(`${BEGIN_FRAME}${up}${text}${CLEAR_BELOW}${END_FRAME}`);
    news = [];
    drawn = lines;
    drawnWidth = width;
  }

  function compose(width: number, height: number): string[] {
    const bars = download ? [downloadLine(download, width)] : [];
    if (!picture || picture.rows.length === 0) return bars;
    const title = toWidth(picture.title, width).trimEnd();
    const table = statusTable(picture.rows, width, terminal.color);
    const lines = [...bars, terminal.color ? paint(title, "bold") : title, ...table];
    lines.push(...episodes.show(clock.now(), clock.wall(), width));
    if (lines.length <= height) return lines;
    const hidden = lines.length - height + 1;
    return [...lines.slice(0, height - 1), `… ${hidden} more`];
  }

  function line(text: string): void {
    news.push(...text.split("\n"));
    schedule();
  }

  return {
    line,
    episode(json) {
      const end = episodes.take(json, clock.now());
      if (end === undefined) schedule();
      else line(end);
    },
    download(progress) {
      download = progress;
      schedule();
    },
    show(title, rows) {
      picture = { title, rows };
      schedule();
    },
    close() {
      if (closed) return;
      closed = true;
      cancel?.();
      stopResize();
      draw();
      terminal.write(SHOW_CURSOR);
    },
  };
}

function downloadLine({ name, bytes, total, bytesPerSecond, waiting }: DownloadProgress, width: number): string {
  const share = total ? bytes / total : 0;
  const barWidth = 20;
  const full = Math.round(share * barWidth);
  const bar = total ? `[${"#".repeat(full)}${".".repeat(barWidth - full)}] ${Math.floor(share * 100)}% of ` : "";
  const speed = waiting ? "another process downloads it" : `${bytesText(bytesPerSecond)}/s`;
  return toWidth(`model ${name} ${bar}${bytesText(total ?? bytes)}, ${speed}`, width).trimEnd();
}

import type { DownloadProgress } from "../models/progress.ts";
import { stateText } from "./status-table.ts";
import { bytesText } from "./text.ts";
import type { View } from "./view.ts";

/** For pipes and log files: one line for each change of state, and for each tenth of a download. */
export function plainView(write: (text: string) => void): View {
  const states = new Map<string, string>();
  const tenths = new Map<string, number>();
  const line = (text: string) => write(`${text}\n`);
  return {
    line,
    // For programs, as it is.
    episode: line,
    download(progress: DownloadProgress | undefined) {
      if (!progress) return;
      const { name, bytes, total, waiting } = progress;
      const tenth = total ? Math.floor((bytes / total) * 10) : 0;
      if (tenths.get(name) === tenth) return;
      tenths.set(name, tenth);
      const size = total ? `${tenth * 10} % of ${bytesText(total)}` : bytesText(bytes);
      line(`model ${name}: ${size}${waiting ? " (another process downloads it)" : ""}`);
    },
    show(_title, rows) {
      for (const row of rows) {
        const state = [row.state, row.pid === undefined ? "" : `pid ${row.pid}`, row.message ?? ""].join("|");
        if (states.get(row.id) === state) continue;
        states.set(row.id, state);
        const details = [row.pid === undefined ? "" : `pid ${row.pid}`, row.message ?? ""].filter(Boolean).join(", ");
        line(`instance ${row.id}: ${stateText({ state: row.state })}${details ? ` (${details})` : ""}`);
      }
      for (const id of [...states.keys()]) {
        if (rows.some((row) => row.id === id)) continue;
        states.delete(id);
        line(`instance ${id}: gone`);
      }
    },
    close() {},
  };
}

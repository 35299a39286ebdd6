import type { DownloadProgress } from "../models/progress.ts";
import type { InstanceRow } from "./status-table.ts";

/** What a person sees of `llmpool dev`. */
export interface View {
  /** One line of news. */
  line(text: string): void;
  /** A line of the router about an episode: its heartbeat, or its end. */
  episode(json: string): void;
  /** How far a model is; called often. Undefined: it is here, or given up. */
  download(progress: DownloadProgress | undefined): void;
  /** The pool as it is now; called often. `title` stands above the table. */
  show(title: string, rows: readonly InstanceRow[]): void;
  /** Leaves the last picture standing. */
  close(): void;
}

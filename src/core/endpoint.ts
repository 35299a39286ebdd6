import type { FailureReason, InstanceState } from "../api/instance.ts";

/** One process behind the router, as its source (supervisor, file, cluster) sees it now. */
export interface Endpoint {
  /** One start of one process: a new pod or process of the same id has another uid. */
  uid: string;
  /** Instance id: `0`, `code-0`. */
  id: string;
  variant: string;
  /** `http://127.0.0.1:41234`; empty while it has no address. */
  url: string;
  state: InstanceState;
  restarts: number;
  /** Of what the process was started with, where its source is a supervisor. */
  revision?: string;
  pid?: number;
  pod?: string;
  device?: string;
  warmupSeconds?: number;
  tokensPerSecond?: number;
  /** Why it is not Ready, in words; while it is, a warning. */
  message?: string;
  /** While it is Failed, and its source starts it again: when, on the clock's scale. */
  restartAt?: number;
  /** 0 to 1, while it loads and where that is known. */
  progress?: number;
  /** Why the process before this one ended, when nobody had asked it to. `lasting`: a restart alone does not cure it. */
  lastFailure?: { reason: FailureReason; message: string; lasting: boolean };
}

/** Where the router learns its endpoints. `onChange` is called after every change; the returned function stops that. */
export interface EndpointSource {
  list(): readonly Endpoint[];
  onChange(listener: () => void): () => void;
}

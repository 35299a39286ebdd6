/**
 * What happened in one run, put together from three sides that know nothing of each other: the store's append-only file, which has every
 * change in its order; the wires between routers and instances, and what the engines themselves counted; and the clients.
 *
 * An instant is the length of the append-only file at that moment, in bytes: all that the store had acknowledged by then lies before it.
 */
export interface History {
  /** Beginnings of the names of budgets that every request is reserved in. */
  always: readonly string[];
  /** In their order. */
  entries: readonly Entry[];
  /** What the store had done, and a copy that took over has not got; in its place among the entries' instants. */
  forgotten: readonly Entry[];
  runs: readonly Run[];
  calls: readonly Call[];
  streams: readonly EventStream[];
  /** Requests that were still reserved when everybody had had time to settle them. */
  open: readonly string[];
}

export type Entry =
  | {
      kind: "reserved";
      at: number;
      id: string;
      tokens: number;
      buckets: string[];
      episode: string | undefined;
      instance: string;
      /** Its router knew which process that was. */
      named: boolean;
    }
  /** The reservation goes on to another instance. */
  | { kind: "moved"; at: number; id: string; instance: string }
  /** `charged` undefined: every window that it was reserved in is over. */
  | { kind: "settled"; at: number; id: string; charged: number | undefined }
  /** A budget after one step of the store; `limit` 0 is none. */
  | { kind: "budget"; at: number; bucket: string; spent: number; reserved: number; limit: number }
  /** A deadline was set or moved, at `now` by the store's clock; both in Unix milliseconds. `number` tells two episodes of one id apart. */
  | {
      kind: "deadline";
      at: number;
      episode: string;
      number: string;
      now: number;
      deadline: number;
      extensions: number;
      extendMs: number;
      /** No deadline is later. */
      latest: number;
    }
  | { kind: "event"; at: number; episode: string; seq: number; event: string }
  /** What an episode's journal says of a request, in the step that it tells of. */
  | { kind: "journal"; at: number; episode: string; id: string; event: "admit" | "settle"; tokens: number }
  /** Seen on its way to an instance, with this limit. */
  | { kind: "dispatched"; at: number; id: string; limit: number; instance: string }
  /** The instance's process was killed; from `until` on there is another one, and every router has had time to learn of it. */
  | { kind: "down"; at: number; until: number; instance: string }
  /** Some other fault. */
  | { kind: "fault"; at: number; what: string };

/** One generation as the engine counted it, to the token that it made last before it was killed. */
export interface Run {
  id: string;
  instance: string;
  /** Names the client's call. */
  marker: string;
  prompt: number;
  completion: number;
  /** It came to its own end. */
  done: boolean;
}

/** One HTTP request of a client, and how it ended for it. */
export interface Call {
  marker: string;
  /** It asked the simulator to fail. */
  faulty: boolean;
  ending:
    | { kind: "answered"; tokens: number }
    | { kind: "refused"; code: string }
    | { kind: "hung up" }
    /** The connection broke. `killed`: the router's process was killed meanwhile. */
    | { kind: "lost"; killed: boolean; message: string }
    | { kind: "malformed"; text: string }
    | { kind: "silence" };
}

/** What a client that follows an episode's events was told, over all its connections. */
export interface EventStream {
  episode: string;
  told: readonly { seq: number; event: string }[];
}

import { ERRORS } from "../../src/api/errors.ts";
import type { Call, Entry, EventStream, History, Run } from "./history.ts";

export interface Problem {
  /** The request, bucket, episode or call that it is about. */
  about: string;
  text: string;
}

/** All that a history says of one request. */
interface Request {
  id: string;
  reserved: Extract<Entry, { kind: "reserved" }>;
  settled: Extract<Entry, { kind: "settled" }> | undefined;
  instances: Set<string>;
}

/** What is wrong with a history; empty when every rule of docs/history-checker.md holds. */
export function check(history: History): Problem[] {
  const problems: Problem[] = [];
  const say = (about: string, text: string) => void problems.push({ about, text });
  const requests = followRequests(history, say);
  checkBudgets(history.entries, requests, say);
  checkCharges(history, requests, say);
  checkEpisodes(history, say);
  checkDeadlines(history.entries, say);
  checkJournals(history, requests, say);
  for (const call of history.calls) checkCall(call, history.runs, say);
  for (const id of history.open) say(id, "is still reserved at the end");
  return problems;
}

type Say = (about: string, text: string) => void;

/** Each request is reserved once, in every budget that applies, before anything of it leaves for an instance and for at least its limit, and settled once. */
function followRequests({ entries, forgotten, always }: History, say: Say): Map<string, Request> {
  /** Reserved before a copy took over that does not know of it: it has to be brought back. */
  const lost = new Map(forgotten.flatMap((e) => (e.kind === "reserved" ? [[e.id, e]] : [])));
  const requests = new Map<string, Request>();
  const ended = new Set<string>();
  for (const entry of entries) {
    if (entry.kind === "event" && entry.event === "ended") ended.add(entry.episode);
    if (!("id" in entry) || entry.kind === "journal") continue;
    const { id } = entry;
    const known = requests.get(id);
    if (entry.kind === "reserved") {
      if (known) say(id, known.settled ? "was reserved again after it was settled" : "was reserved twice");
      else {
        for (const name of always) {
          if (!entry.buckets.some((bucket) => bucket.startsWith(name))) say(id, `was not reserved in ${name}`);
        }
        requests.set(id, { id, reserved: entry, settled: undefined, instances: new Set([entry.instance]) });
        // One that was lost is brought back, whatever has become of its episode meanwhile.
        if (entry.episode !== undefined && ended.has(entry.episode) && !lost.has(id))
          say(id, `was admitted after ${entry.episode} ended`);
      }
    } else if (!known && entry.kind === "dispatched" && lost.has(id)) {
      const { tokens } = lost.get(id) ?? { tokens: 0 };
      if (entry.limit > tokens) say(id, `was dispatched with a limit of ${entry.limit}, and ${tokens} were reserved`);
    } else if (!known) say(id, `was ${entry.kind} without a reservation`);
    else if (entry.kind === "settled") {
      if (known.settled) say(id, "was settled twice");
      known.settled = entry;
    } else {
      known.instances.add(entry.instance);
      if (entry.kind === "dispatched" && entry.limit > known.reserved.tokens) {
        say(id, `was dispatched with a limit of ${entry.limit}, and ${known.reserved.tokens} were reserved`);
      }
    }
  }
  return requests;
}

/** Spent plus reserved is never above a limit; at the end nothing is reserved, and what is spent is the sum of what was charged. */
function checkBudgets(entries: readonly Entry[], requests: ReadonlyMap<string, Request>, say: Say): void {
  const last = new Map<string, Extract<Entry, { kind: "budget" }>>();
  for (const entry of entries) {
    if (entry.kind !== "budget") continue;
    const { at, bucket, spent, reserved, limit } = entry;
    last.set(bucket, entry);
    if (limit > 0 && spent + reserved > limit)
      say(bucket, `had ${spent} spent and ${reserved} reserved of ${limit} at ${at}`);
    if (spent < 0 || reserved < 0) say(bucket, `had ${spent} spent and ${reserved} reserved at ${at}`);
  }
  for (const [bucket, { spent, reserved }] of last) {
    let charged = 0;
    for (const { reserved: r, settled } of requests.values())
      if (r.buckets.includes(bucket)) charged += settled?.charged ?? 0;
    if (spent !== charged) say(bucket, `has ${spent} spent at the end, and ${charged} were charged`);
    if (reserved !== 0) say(bucket, `has ${reserved} reserved at the end`);
  }
}

/**
 * Each request costs what the engines counted for it, no token more or less. Only where an instance that may have run it was killed
 * between its admission and its settlement, or where the router did not know its process yet, may it cost the whole reservation, because
 * nobody can prove less.
 */
function checkCharges({ entries, runs }: History, requests: ReadonlyMap<string, Request>, say: Say): void {
  const downs = entries.filter((e) => e.kind === "down");
  const counted = new Map<string, number>();
  for (const { id, prompt, completion } of runs) {
    counted.set(id, (counted.get(id) ?? 0) + prompt + completion);
    if (!requests.has(id)) say(id, "ran without a reservation");
  }
  for (const { id, reserved, settled, instances } of requests.values()) {
    if (settled?.charged === undefined) continue;
    const { charged } = settled;
    const used = counted.get(id) ?? 0;
    if (used > reserved.tokens) say(id, `used ${used} of ${reserved.tokens} reserved tokens`);
    if (charged === used) continue;
    const wasKilled = downs.some((d) => instances.has(d.instance) && d.at < settled.at && d.until >= reserved.at);
    const unproved = wasKilled || !reserved.named;
    if (unproved && charged === reserved.tokens) continue;
    say(id, `was charged ${charged} (${reserved.tokens} were reserved), and the engines counted ${used}`);
  }
}

/** The journal of its episode has each admission and each settlement of a request once, with its tokens, in the step that made it; and nothing else. */
function checkJournals({ entries, forgotten }: History, requests: ReadonlyMap<string, Request>, say: Say): void {
  const journals = Map.groupBy(
    entries.filter((e) => e.kind === "journal"),
    ({ id }) => id,
  );
  for (const id of journals.keys()) if (!requests.has(id)) say(id, "is in a journal, and was never reserved");
  for (const { id, reserved, settled } of requests.values()) {
    const { episode } = reserved;
    // Its episode may have begun in what a copy has forgotten, and is then forgotten with its journal.
    if (!journals.has(id) && forgotten.some((e) => e.kind === "reserved" && e.id === id)) continue;
    const want = episode === undefined ? [] : [`${episode} admit ${reserved.tokens} at ${reserved.at}`];
    if (episode !== undefined && settled?.charged !== undefined) {
      want.push(`${episode} settle ${settled.charged} at ${settled.at}`);
    }
    const told = (journals.get(id) ?? []).map((j) => `${j.episode} ${j.event} ${j.tokens} at ${j.at}`);
    if (told.join() !== want.join()) say(id, `has [${told.join(", ")}] in the journal, not [${want.join(", ")}]`);
  }
}

/** A deadline moves by extensions alone, each by one that came within its window, and none above the last end: one extension a window, whoever saw the progress. */
function checkDeadlines(entries: readonly Entry[], say: Say): void {
  const last = new Map<string, Extract<Entry, { kind: "deadline" }>>();
  for (const entry of entries) {
    if (entry.kind !== "deadline") continue;
    const { episode, number, now, deadline, extensions, extendMs, latest } = entry;
    const before = last.get(episode);
    last.set(episode, entry);
    if (deadline > latest) say(episode, `has a deadline ${deadline - latest} ms after its last end`);
    if (before?.number !== number) {
      if (extensions !== 0) say(episode, `began with ${extensions} extensions`);
    } else if (extensions !== before.extensions + 1)
      say(episode, `went from ${before.extensions} to ${extensions} extensions`);
    else if (deadline !== Math.min(latest, before.deadline + extendMs)) {
      say(episode, `was extended by ${deadline - before.deadline} ms, not by ${extendMs}`);
    } else if (now < before.deadline - extendMs || now >= before.deadline) {
      say(episode, `was extended ${before.deadline - now} ms before its deadline, and its window is ${extendMs} ms`);
    }
  }
}

/** An episode's events are numbered without gaps and it ends once, in the store and for everyone who follows it. */
function checkEpisodes({ entries, streams }: History, say: Say): void {
  const stored = new Map<string, { seq: number; event: string }[]>();
  for (const { kind, ...entry } of entries) {
    if (kind !== "event") continue;
    const { episode, seq, event } = entry as Extract<Entry, { kind: "event" }>;
    stored.set(episode, [...(stored.get(episode) ?? []), { seq, event }]);
  }
  for (const [episode, told] of stored) checkEvents({ episode, told }, "in the store", say);
  for (const stream of streams) checkEvents(stream, "for a client", say);
}

function checkEvents({ episode, told }: EventStream, where: string, say: Say): void {
  const gap = told.findIndex(({ seq }, i) => seq !== i + 1);
  if (gap >= 0) say(episode, `${where}, event ${gap + 1} has the number ${told[gap]?.seq}`);
  const ends = told.filter(({ event }) => event === "ended").length;
  if (ends !== 1 || told.at(-1)?.event !== "ended")
    say(episode, `${where}, it ended ${ends} times; its last event is ${told.at(-1)?.event}`);
}

/** Everyone gets an answer that says what it cost, by the engine's count, or an error of the table; but for those who hung up or whose router was killed. */
function checkCall({ marker, faulty, ending }: Call, runs: readonly Run[], say: Say): void {
  switch (ending.kind) {
    case "answered":
      if (!runs.some((r) => r.marker === marker && r.done && r.prompt + r.completion === ending.tokens)) {
        say(marker, `was answered with a usage of ${ending.tokens}, and no engine counted that for it`);
      }
      return;
    case "refused":
      if (!(ending.code in ERRORS) || (ending.code === "internal_error" && !faulty))
        say(marker, `got the error ${ending.code}`);
      return;
    case "lost":
      if (!ending.killed) say(marker, `lost its connection to a router that lived (${ending.message})`);
      return;
    case "malformed":
      say(marker, `got something that is no answer: ${ending.text}`);
      return;
    case "silence":
      say(marker, "got no answer at all");
  }
}

/** What belongs to a problem: the entries about it, with the faults in between, and nothing else. */
export function story(history: History, about: string): string[] {
  const { entries, runs, calls, streams } = history;
  const markers = new Set(runs.filter((r) => r.id === about).map((r) => r.marker));
  const ids = new Set(runs.filter((r) => r.marker === about).map((r) => r.id)).add(about);
  const isAbout = (e: Entry) =>
    ("id" in e && ids.has(e.id)) ||
    (e.kind === "budget" && e.bucket === about) ||
    ((e.kind === "event" || e.kind === "deadline") && e.episode === about) ||
    (e.kind === "reserved" && e.buckets.includes(about));
  const own = entries.filter(isAbout);
  const [from, to] = [own.at(0)?.at ?? 0, own.at(-1)?.at ?? 0];
  const instances = new Set(own.flatMap((e) => ("instance" in e ? [e.instance] : [])));
  const isFault = (e: Entry) => e.kind === "fault" || (e.kind === "down" && instances.has(e.instance));
  // Of a long story the end tells more.
  const lines = entries
    .filter((e) => isAbout(e) || (isFault(e) && e.at <= to && ("until" in e ? e.until : e.at) >= from))
    .slice(-40);
  return [
    ...lines.map((e) => JSON.stringify(e)),
    ...runs.filter((r) => ids.has(r.id)).map((r) => `counted ${JSON.stringify(r)}`),
    ...calls.filter((c) => c.marker === about || markers.has(c.marker)).map((c) => `client ${JSON.stringify(c)}`),
    ...streams.filter((s) => s.episode === about).map((s) => `followed ${JSON.stringify(s)}`),
  ];
}

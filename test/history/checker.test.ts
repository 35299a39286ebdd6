import { expect, test } from "vitest";
import { check, story } from "./checker.ts";
import type { Call, Entry, History, Run } from "./history.ts";

const reserved = (at: number, id: string, change = {}): Entry => ({
  ...{ kind: "reserved", at, id, tokens: 100, buckets: ["pool", "e"], episode: "e", instance: "0", named: true },
  ...change,
});
const budget = (at: number, spent: number, held: number): Entry[] =>
  ["pool", "e"].map((bucket) => ({ kind: "budget", at, bucket, spent, reserved: held, limit: 200 }));
const dispatched = (at: number, id: string, limit = 100): Entry => ({
  kind: "dispatched",
  at,
  id,
  limit,
  instance: "0",
});
const settled = (at: number, id: string, charged: number): Entry => ({ kind: "settled", at, id, charged });
const journal = (at: number, id: string, what: "admit" | "settle", tokens: number): Entry => ({
  ...{ kind: "journal", at, episode: "e", id, event: what, tokens },
});
const event = (at: number, seq: number, name: string): Entry => ({ kind: "event", at, episode: "e", seq, event: name });
const deadline = (at: number, now: number, until: number, extensions: number): Entry => ({
  ...{ kind: "deadline", at, episode: "e", number: "1", now, deadline: until, extensions, extendMs: 10, latest: 130 },
});
const down = (at: number, until: number): Entry => ({ kind: "down", at, until, instance: "0" });
const ran = (id: string, completion: number, change = {}): Run => ({
  ...{ id, instance: "0", marker: `mark_${id}`, prompt: 10, completion, done: true },
  ...change,
});
const call = (marker: string, ending: Call["ending"]): Call => ({ marker, faulty: false, ending });

/** Two requests of one episode, as they should be: `a` is answered, `b` is cut off. */
const GOOD: History = {
  always: ["pool"],
  entries: [
    journal(10, "a", "admit", 100),
    journal(20, "b", "admit", 100),
    journal(30, "a", "settle", 30),
    journal(40, "b", "settle", 15),
    event(10, 1, "started"),
    deadline(10, 0, 100, 0),
    deadline(35, 90, 110, 1),
    deadline(36, 109, 120, 2),
    reserved(10, "a"),
    ...budget(10, 0, 100),
    dispatched(11, "a"),
    reserved(20, "b"),
    ...budget(20, 0, 200),
    dispatched(21, "b"),
    settled(30, "a", 30),
    ...budget(30, 30, 100),
    settled(40, "b", 15),
    ...budget(40, 45, 0),
    event(50, 2, "ended"),
  ],
  runs: [ran("a", 20), ran("b", 5, { done: false })],
  calls: [call("mark_a", { kind: "answered", tokens: 30 }), call("mark_b", { kind: "hung up" })],
  streams: [
    {
      episode: "e",
      told: [
        { seq: 1, event: "started" },
        { seq: 2, event: "ended" },
      ],
    },
  ],
  forgotten: [],
  open: [],
};
/** The same, with some entries in place of others of their kind and request. */
function instead(...changed: Entry[]): History {
  const isSame = (a: Entry, b: Entry) =>
    a.kind === b.kind && "id" in a && "id" in b && a.id === b.id && (a.kind !== "journal" || a.at === b.at);
  return { ...GOOD, entries: GOOD.entries.map((e) => changed.find((c) => isSame(e, c)) ?? e) };
}
const more = (...entries: Entry[]): History => ({ ...GOOD, entries: [...GOOD.entries, ...entries] });
const ending = (e: Call["ending"]): History => ({ ...GOOD, calls: [call("mark_a", e)] });

test("a history as it should be has no problem", () => {
  expect(check(GOOD)).toEqual([]);
});

test("what a copy has forgotten may be on its way before it is brought back, and has to be brought back", () => {
  const before = { ...GOOD, entries: [dispatched(5, "a"), ...GOOD.entries] };
  expect(check({ ...before, forgotten: [reserved(4, "a")] })).toEqual([]);
  expect(check(before)).toHaveLength(1);
  const never = { ...GOOD, forgotten: [reserved(4, "c")], runs: [...GOOD.runs, ran("c", 1)] };
  expect(check(never)).toEqual([{ about: "c", text: "ran without a reservation" }]);
});

test("where the instance was killed between admission and settlement, the whole reservation may be charged, and nothing else", () => {
  const whole = instead(settled(40, "b", 100), journal(40, "b", "settle", 100));
  const ended = { ...whole, entries: [...whole.entries.slice(0, -3), ...budget(40, 130, 0), event(50, 2, "ended")] };
  const withDown = (...d: Entry[]) => ({ ...ended, entries: [...ended.entries, ...d] });
  expect(check(withDown(down(25, 35)))).toEqual([]);
  for (const other of [down(5, 8), down(41, 45)]) expect(check(withDown(other))).not.toEqual([]);
});

test("so may one that was admitted before its router knew the instance's process", () => {
  const whole = (named: boolean) =>
    instead(reserved(20, "b", { named }), settled(40, "b", 100), journal(40, "b", "settle", 100));
  const problems = (named: boolean) => check(whole(named)).filter(({ about }) => about === "b");
  expect([problems(true).length, problems(false)]).toEqual([1, []]);
});

test.each<[string, History, RegExp]>([
  ["a limit that is passed", more(...budget(60, 150, 51)), /150 spent and 51 reserved of 200/],
  ["a limit that is passed and kept again", more(...budget(60, 201, 0), ...budget(61, 45, 0)), /201 spent/],
  ["a settlement that is missing", { ...GOOD, entries: GOOD.entries.slice(0, -4), open: ["b"] }, /still reserved/],
  ["a second settlement", more(settled(60, "b", 15)), /settled twice/],
  ["a reservation that comes back", more(reserved(60, "b")), /reserved again after it was settled/],
  ["a second reservation", { ...GOOD, entries: [reserved(5, "a"), ...GOOD.entries] }, /reserved twice/],
  ["a settlement of nothing", more(settled(60, "x", 1)), /settled without a reservation/],
  ["a reservation that leaves a budget out", instead(reserved(10, "a", { buckets: ["e"] })), /not reserved in pool/],
  ["a dispatch before the reservation", { ...GOOD, entries: [dispatched(1, "a"), ...GOOD.entries] }, /without a res/],
  ["a dispatch with more than was reserved", instead(dispatched(11, "a", 101)), /limit of 101, and 100/],
  ["a charge below the count", instead(settled(30, "a", 29)), /charged 29.*counted 30/],
  ["a charge above the count", instead(settled(30, "a", 31)), /charged 31.*counted 30/],
  ["a whole charge without a reason", instead(settled(30, "a", 100)), /charged 100.*counted 30/],
  ["a charge that differs between budgets", instead(settled(30, "a", Number.NaN)), /charged NaN/],
  ["more used than reserved", { ...GOOD, runs: [...GOOD.runs, ran("a", 90)] }, /used 130 of 100/],
  ["a run that nobody admitted", { ...GOOD, runs: [...GOOD.runs, ran("x", 1)] }, /ran without a reservation/],
  ["tokens that nobody was charged for", more(...budget(60, 46, 0)), /46 spent at the end, and 45 were charged/],
  ["tokens reserved for nobody", more(...budget(60, 45, 1)), /1 reserved at the end/],
  ["an episode that ends twice", more(event(60, 3, "ended")), /in the store, it ended 2 times/],
  ["an episode that does not end", { ...GOOD, entries: GOOD.entries.slice(0, -1) }, /it ended 0 times/],
  ["a gap in the events", more(event(60, 4, "ended")), /event 3 has the number 4/],
  ["an end that a client is told twice", twice(), /for a client, event 3 has the number 2/],
  ["an extension outside of its window", more(deadline(60, 109, 130, 3)), /extended 11 ms before its deadline/],
  ["an extension after the deadline", more(deadline(60, 120, 130, 3)), /extended 0 ms before its deadline/],
  ["two extensions in one step", more(deadline(60, 115, 130, 4)), /from 2 to 4 extensions/],
  ["an extension by too much", more(deadline(60, 115, 129, 3)), /extended by 9 ms, not by 10/],
  ["a deadline that moves by itself", more(deadline(60, 115, 130, 2)), /from 2 to 2 extensions/],
  [
    "a deadline after the last end",
    more(deadline(60, 115, 130, 3), deadline(61, 125, 140, 4)),
    /10 ms after its last end/,
  ],
  ["an admission after the end", more(reserved(60, "c"), settled(61, "c", 0)), /admitted after e ended/],
  [
    "a journal with another charge",
    instead(journal(30, "a", "settle", 29)),
    /not \[e admit 100 at 10, e settle 30 at 30\]/,
  ],
  ["a journal with an entry twice", more(journal(60, "a", "settle", 30)), /settle 30 at 30, e settle 30 at 60\] in/],
  [
    "a journal that leaves an admission out",
    { ...GOOD, entries: GOOD.entries.slice(1) },
    /has \[e settle 30 at 30\] in/,
  ],
  ["a journal of a request that never was", more(journal(60, "x", "admit", 1)), /never reserved/],
  ["an answer with another count", ending({ kind: "answered", tokens: 29 }), /usage of 29/],
  ["an error without a type", ending({ kind: "refused", code: "oops" }), /the error oops/],
  ["an error of the router's own", ending({ kind: "refused", code: "internal_error" }), /internal_error/],
  ["a broken connection", ending({ kind: "lost", killed: false, message: "reset" }), /a router that lived \(reset\)/],
  ["an answer that is none", ending({ kind: "malformed", text: "<html>" }), /<html>/],
  ["silence", ending({ kind: "silence" }), /no answer at all/],
])("it finds %s", (_, history, want) => {
  expect(check(history).map(({ about, text }) => `${about} ${text}`)).toEqual(
    expect.arrayContaining([expect.stringMatching(want)]),
  );
});

function twice(): History {
  const told = GOOD.streams[0]?.told ?? [];
  return { ...GOOD, streams: [{ episode: "e", told: [...told, ...told.slice(-1)] }] };
}

test("a story tells of one request alone, with the faults of its time", () => {
  const { entries, ...rest } = more(
    { kind: "fault", at: 25, what: "in it" },
    { kind: "fault", at: 99, what: "after it" },
  );
  const told = story({ ...rest, entries: entries.toSorted((a, b) => a.at - b.at) }, "a").join("\n");
  expect(told).toMatch(/reserved[\s\S]*dispatched[\s\S]*in it[\s\S]*settled[\s\S]*counted[\s\S]*client/);
  expect(told).not.toMatch(/after it|"b"|budget/);
});

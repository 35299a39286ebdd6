import { expect, test } from "vitest";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { Screen } from "../../test/support/screen.ts";
import { liveView } from "./live-view.ts";
import { plainView } from "./plain-view.ts";
import type { InstanceRow } from "./status-table.ts";

const row = (id: string, change: Partial<InstanceRow> = {}): InstanceRow => ({
  object: "instance",
  id,
  variant: "default",
  state: "Loading",
  roles: [],
  queued: 0,
  running: 0,
  sessions: 0,
  tokens_per_second: null,
  restarts: 0,
  device: null,
  message: null,
  ...change,
});

test("plain: one line for each change of state, none for what stays", () => {
  let out = "";
  const view = plainView((text) => {
    out += text;
  });
  view.show("", [row("0", { progress: 0.1, pid: 7 }), row("1")]);
  view.show("", [row("0", { progress: 0.9, pid: 7 }), row("1")]);
  view.show("", [row("0", { state: "Failed", message: "SIGKILL" })]);
  expect(out).toBe(
    "instance 0: Loading (pid 7)\ninstance 1: Loading\ninstance 0: Failed (SIGKILL)\ninstance 1: gone\n",
  );
});

test("plain: a download tells each tenth once", () => {
  let out = "";
  const view = plainView((text) => {
    out += text;
  });
  for (let bytes = 0; bytes <= 1000; bytes += 50)
    view.download({ name: "m", bytes, total: 1000, bytesPerSecond: 1, waiting: false });
  expect(out.split("\n").slice(0, 3)).toEqual([
    "model m: 0 % of 1.0 KB",
    "model m: 10 % of 1.0 KB",
    "model m: 20 % of 1.0 KB",
  ]);
  expect(out.trim().split("\n")).toHaveLength(11);
});

test("live: one table in its place, news above it", () => {
  const clock = new FakeClock();
  const screen = new Screen(100, 12);
  const view = liveView(screen.terminal, clock);
  view.line("hello");
  view.show("apex", [row("0"), row("1")]);
  clock.advance(100);
  view.show("apex", [row("0", { state: "Ready" })]);
  view.line("instance 1 left");
  clock.advance(100);
  expect(screen.text()).toMatch(/^hello\ninstance 1 left\napex\nINSTANCE .*\n0 +Ready +- .*$/);
});

const beat = (episode_id: string, clock: FakeClock) =>
  JSON.stringify({
    event: "episode_heartbeat",
    episode_id,
    tokens_used: 10,
    last_progress: { event: "patch", at: new Date(clock.wall() - 5_000).toISOString() },
    time_remaining_s: 600,
    state: "active",
    instances: ["0"],
  });
const END = '{"event":"episode_ended","episode_id":"ep1","reason":"finished","tokens_used":12,"extensions":0}';

test("plain: what the router says of episodes is for programs, as it is", () => {
  let out = "";
  const view = plainView((text) => {
    out += text;
  });
  view.episode(END);
  expect(out).toBe(`${END}\n`);
});

test("live: active episodes stand below the table, an end is a line, and no JSON is seen", () => {
  const clock = new FakeClock();
  const screen = new Screen(100, 20);
  const view = liveView(screen.terminal, clock);
  view.show("apex", [row("0")]);
  for (let i = 1; i <= 7; i++) view.episode(beat(`ep${i}`, clock));
  clock.advance(10_000);
  view.show("apex", [row("0")]);
  clock.advance(100);
  const lines = screen.text().split("\n");
  expect(lines[3]).toBe("episode ep1: 9m49s left, 10 tokens used, patch 15s ago");
  expect(lines.slice(7)).toEqual([expect.stringContaining("episode ep5: "), "… 2 more episodes"]);
  view.episode(END);
  clock.advance(100);
  expect(screen.text().split("\n")[0]).toBe("episode ep1 ended: finished, 12 tokens used");
  expect(screen.text()).toMatch(/episode ep6: .*\n… 1 more episodes$/);
  expect(screen.raw).not.toContain("{");
});

test("live: draws at most ten times a second, whatever happens", () => {
  const clock = new FakeClock();
  const screen = new Screen(100, 12);
  const view = liveView(screen.terminal, clock);
  const before = screen.writes;
  for (let i = 0; i < 1000; i++) {
    view.show("apex", [row("0", { progress: i / 1000 })]);
    clock.advance(1);
  }
  expect(screen.writes - before).toBeLessThanOrEqual(10);
  expect(screen.text()).toContain("Loading 99%");
});

test("live: writes nothing while nothing changes, and no table of nothing", () => {
  const clock = new FakeClock();
  const screen = new Screen(100, 12);
  const view = liveView(screen.terminal, clock);
  view.show("apex", [row("0")]);
  clock.advance(100);
  const before = screen.writes;
  view.show("apex", [row("0")]);
  clock.advance(100);
  expect(screen.writes).toBe(before);
  view.show("apex", []);
  clock.advance(100);
  expect(screen.text()).toBe("");
});

test("live: after a resize that wraps its lines, no line is left over", () => {
  const clock = new FakeClock();
  const screen = new Screen(100, 20);
  const view = liveView(screen.terminal, clock);
  view.show("a title that is a good deal longer than forty columns", [row("0", { message: "why" })]);
  clock.advance(100);
  screen.resize(40, 20);
  clock.advance(100);
  expect(screen.text()).toMatch(/^a title .*\nINSTANCE .*\n0 .*\n {2}why$/);
});

test("live: a pool larger than the screen says how much is hidden", () => {
  const clock = new FakeClock();
  const screen = new Screen(80, 6);
  const view = liveView(screen.terminal, clock);
  view.show(
    "apex",
    Array.from({ length: 20 }, (_, i) => row(String(i))),
  );
  clock.advance(100);
  expect(screen.text().split("\n").at(-1)).toBe("… 18 more");
});

test("live: the cursor comes back, and a last picture stays", () => {
  const clock = new FakeClock();
  const screen = new Screen(80, 6);
  const view = liveView(screen.terminal, clock);
  view.show("apex", [row("0")]);
  view.close();
  view.close();
  view.line("late");
  clock.advance(1000);
  expect(screen.raw.endsWith("\x1b[?25h")).toBe(true);
  expect(screen.text()).toContain("apex");
});

test("live: without colour no colour is written", () => {
  const clock = new FakeClock();
  const screen = new Screen(80, 6, false);
  const view = liveView(screen.terminal, clock);
  view.show("apex", [row("0", { state: "Failed" })]);
  clock.advance(100);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a colour begins with one.
  expect(screen.raw).not.toMatch(/\x1b\[\d+m/);
});

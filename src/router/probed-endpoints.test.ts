import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { eventually } from "../../test/support/eventually.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { ProbedEndpoints } from "./probed-endpoints.ts";

/** Answers its probes as it is told. */
class Probed {
  ready = true;
  boot = "b1";
  hangs = false;
  asked = 0;
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((req, res) => this.#answer(req.url ?? "", res));
  }

  static async start(): Promise<Probed> {
    const one = new Probed();
    await new Promise<void>((resolve) => one.#server.listen(0, "127.0.0.1", resolve));
    return one;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(path: string, res: ServerResponse): void {
    if (path === "/healthz") this.asked++;
    if (this.hangs) return;
    const status = path === "/readyz" && !this.ready ? 503 : 200;
    res.writeHead(status).end(JSON.stringify(path === "/healthz" ? { boot: this.boot } : {}));
  }
}

let clock: FakeClock;
let source: ProbedEndpoints;
let one: Probed;
let other: Probed;
beforeEach(async () => {
  clock = new FakeClock();
  source = new ProbedEndpoints(clock);
  [one, other] = [await Probed.start(), await Probed.start()];
  source.set([
    { id: "0", variant: "default", url: one.url },
    { id: "1", variant: "default", url: other.url },
  ]);
  await is("Ready Ready");
});
afterEach(async () => {
  await source.close();
  await Promise.all([one.close(), other.close()]);
});

const states = () =>
  source
    .list()
    .map(({ state }) => state)
    .join(" ");
const is = (wanted: string) => eventually(wanted, () => states() === wanted);
/** Lets the next probe of both begin, and sees that it has. */
async function probe(ms: number, who = [one, other]): Promise<void> {
  const before = who.map(({ asked }) => asked);
  clock.advance(ms);
  await eventually("a probe", () => who.every(({ asked }, i) => asked > (before[i] ?? 0)));
}

test("one that hangs is down after two probes without an answer, and holds up no news of another", async () => {
  one.hangs = true;
  other.ready = false;
  await probe(1_000);
  await is("Ready Loading");
  other.ready = true;
  await probe(1_000, [other]);
  await is("Ready Ready");
  // The first probe has had its two seconds; the second follows at once, and has as much.
  clock.advance(1_000);
  await eventually("it is asked again", () => {
    clock.advance(0);
    return one.asked === 3;
  });
  expect(states()).toBe("Ready Ready");
  clock.advance(2_000);
  await is("Failed Ready");
  expect(source.list()[0]?.message).toBe("does not answer");
  one.hangs = false;
  await probe(1_000, [one]);
  await is("Ready Ready");
});

/** Lets time pass until both of `who` have been asked twice more: the first may have been on its way. */
async function pulses(...who: Probed[]): Promise<void> {
  const before = who.map(({ asked }) => asked);
  await eventually("two probes", () => {
    clock.advance(1_000);
    return who.every(({ asked }, i) => asked >= (before[i] ?? 0) + 2);
  });
}

test("one that is gone is down; a new process in its place is another one", async () => {
  await one.close();
  await eventually("it is down", () => {
    clock.advance(1_000);
    return states() === "Failed Ready";
  });
  other.boot = "b2";
  await pulses(other);
  await eventually("it is another", () => source.list()[1]?.uid === "b2");
  expect(source.list()[1]?.restarts).toBe(1);
});

test("one that leaves drains, whatever it answers, and is asked no more when it is gone", async () => {
  source.set([
    { id: "0", variant: "default", url: one.url, draining: true },
    { id: "1", variant: "default", url: other.url },
  ]);
  expect(states()).toBe("Draining Ready");
  await pulses(one, other);
  expect(states()).toBe("Draining Ready");
  source.set([{ id: "1", variant: "default", url: other.url }]);
  await pulses(other);
  const { asked } = one;
  await pulses(other);
  expect([states(), one.asked]).toEqual(["Ready", asked]);
});

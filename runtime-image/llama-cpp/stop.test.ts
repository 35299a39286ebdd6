import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StopDetector } from "./stop.ts";

/** All text that leaves when `pieces` come one after another. */
function run(stops: string[], pieces: string[]): { text: string; stopped: boolean } {
  const detector = new StopDetector(stops);
  let text = "";
  for (const piece of pieces) {
    const step = detector.push(piece);
    text += step.text;
    if (step.stopped) return { text, stopped: true };
  }
  return { text: text + detector.flush(), stopped: false };
}

describe("StopDetector", () => {
  it.each([
    { name: "inside one piece", stops: ["END"], pieces: ["a END b"], want: "a ", stopped: true },
    { name: "across pieces", stops: ["END"], pieces: ["a E", "N", "D b"], want: "a ", stopped: true },
    { name: "the earlier of two", stops: ["late", "a"], pieces: ["xalate"], want: "x", stopped: true },
    {
      name: "a false start",
      stops: ["\n\nUser:"],
      pieces: ["hi\n", "\nUs", "e it"],
      want: "hi\n\nUse it",
      stopped: false,
    },
    {
      name: "a start inside a false start",
      stops: ["aab"],
      pieces: ["a", "a", "a", "b", "c"],
      want: "a",
      stopped: true,
    },
    { name: "beyond the basic plane", stops: ["😀!"], pieces: ["x😀", "!y"], want: "x", stopped: true },
    { name: "the one that is complete first", stops: ["abc", "b"], pieces: ["abc"], want: "a", stopped: true },
    { name: "held to the end", stops: ["END"], pieces: ["a EN"], want: "a EN", stopped: false },
    { name: "an empty stop", stops: [""], pieces: ["abc"], want: "abc", stopped: false },
  ])("stops right: $name", ({ stops, pieces, want, stopped }) => {
    expect(run(stops, pieces)).toEqual({ text: want, stopped });
  });

  it("gives the same text however it is cut, and never a stop string", () => {
    const letters = fc.string({ unit: fc.constantFrom("a", "b", "\n", "😀"), maxLength: 12 });
    fc.assert(
      fc.property(fc.array(letters, { maxLength: 8 }), fc.array(letters, { maxLength: 3 }), (pieces, stops) => {
        const cut = run(stops, pieces);
        expect(cut).toEqual(run(stops, [pieces.join("")]));
        for (const stop of stops) if (stop !== "") expect(cut.text).not.toContain(stop);
      }),
      { numRuns: 2000 },
    );
  });
});

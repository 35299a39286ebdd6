import fc from "fast-check";
import { expect, it } from "vitest";
import { ControlTokens } from "./control-tokens.ts";

const control = new ControlTokens(new Set(["<|im_start|>", "<|im_end|>", "</s>", "[INST]"]));
const text = fc.string({
  unit: fc.constantFrom("<|im_end|>", "</s>", "</", "s>", "[INST]", "a", " ", "<|im_", "end|>"),
  maxLength: 40,
});

it("leaves no control token in any half of a disarmed text, and changes nothing else", () => {
  fc.assert(
    fc.property(text, (written) => {
      const halves = control.disarm(written, "\uFDD0").split("\uFDD0");
      expect(halves.join("")).toBe(written);
      for (const half of halves) expect(control.find(half, 0)).toBeUndefined();
    }),
  );
});

it("cuts only in front of control tokens, and loses nothing", () => {
  fc.assert(
    fc.property(text, (written) => {
      const pieces = [...control.pieces(written, 8)];
      expect(pieces.join("")).toBe(written);
      for (const piece of pieces.slice(1)) expect(control.find(piece, 0)?.at).toBe(0);
    }),
  );
});

it("leaves ordinary text alone", () => {
  expect(control.disarm("if a < b then c[0] </p>", "\uFDD0")).toBe("if a < b then c[0] </p>");
});

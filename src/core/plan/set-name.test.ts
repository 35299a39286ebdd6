import { expect, test } from "vitest";
import { setNameOf } from "./set-name.ts";

test("a StatefulSet has a name that leaves room for its controller's hash in a label of 63 characters", () => {
  expect(setNameOf("apex", "default")).toBe("apex");
  expect(setNameOf("apex", "code")).toBe("apex-code");
  const pool = "p".repeat(40);
  expect(setNameOf(pool, "v".repeat(11))).toBe(`${pool}-${"v".repeat(11)}`);
  const longest = ["x", "y"].map((end) => setNameOf(pool, `${"v".repeat(11)}${end}`));
  for (const name of longest) expect(name).toMatch(/^p{40}-v{5}-[0-9a-f]{5}$/);
  expect(longest[0]).not.toBe(longest[1]);
});

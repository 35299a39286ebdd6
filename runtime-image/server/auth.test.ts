import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { TokenCheck } from "./auth.ts";

async function tokenFile(text: string): Promise<string> {
  const file = join(await tempDir(), "token");
  await writeFile(file, text);
  return file;
}

test.each([
  ["Bearer secret", true],
  ["bearer  secret", true],
  ["Bearer secret2", false],
  ["Bearer ", false],
  ["secret", false],
  ["Basic secret", false],
  [undefined, false],
])("%s is accepted: %s", async (header, want) => {
  const check = await TokenCheck.load(await tokenFile("secret\n"));
  expect(await check.accepts(header)).toBe(want);
});

test("a new token in the file counts from its first use, and the old one no more", async () => {
  const file = await tokenFile("old");
  const check = await TokenCheck.load(file);
  await writeFile(file, "new");
  expect(await check.accepts("Bearer old")).toBe(true);
  expect(await Promise.all([check.accepts("Bearer new"), check.accepts("Bearer new")])).toEqual([true, true]);
  expect(await check.accepts("Bearer old")).toBe(false);
});

test("a file that is gone or empty opens nothing and closes nothing", async () => {
  const file = await tokenFile("secret");
  const check = await TokenCheck.load(file);
  await writeFile(file, "");
  expect(await check.accepts("Bearer ")).toBe(false);
  await rm(file);
  expect(await check.accepts("Bearer x")).toBe(false);
  expect(await check.accepts("Bearer secret")).toBe(true);
});

test("starting without a token is refused", async () => {
  await expect(TokenCheck.load("/nonexistent/token")).rejects.toMatchObject({ reason: "ConfigInvalid" });
  await expect(TokenCheck.load(await tokenFile(" \n"))).rejects.toMatchObject({ reason: "ConfigInvalid" });
});

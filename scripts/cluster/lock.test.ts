import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { tempDir } from "../../test/support/temp-dir.ts";
import { withLock } from "./lock.ts";

test("one at a time, and who waits says so once", async () => {
  const file = join(await tempDir(), "lock");
  const seen: string[] = [];
  const second = Promise.withResolvers<void>();
  const note = (text: string) => void seen.push(text);
  const first = withLock(
    file,
    () => note("a waits"),
    async () => {
      note("a in");
      await second.promise;
      note("a out");
    },
  );
  const waits = () => {
    note("b waits");
    second.resolve();
  };
  await withLock(file, waits, async () => note("b in"));
  await first;
  expect(seen).toEqual(["a in", "b waits", "a out", "b in"]);
});

test("work that fails gives the lock back", async () => {
  const file = join(await tempDir(), "lock");
  const never = () => expect.fail("it was locked");
  await expect(withLock(file, never, () => Promise.reject(new Error("broken")))).rejects.toThrow("broken");
  expect(await withLock(file, never, async () => "free")).toBe("free");
});

test("a process that was killed holds no lock", async () => {
  const file = join(await tempDir(), "lock");
  const lock = fileURLToPath(new URL("lock.ts", import.meta.url));
  const script = `const { lock } = await import(${JSON.stringify(lock)}); globalThis.held = await lock(${JSON.stringify(file)}, () => {}); console.log("held"); setInterval(() => {}, 1e5);`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(child.stdout, "data");
  const killed = () => void child.kill("SIGKILL");
  expect(await withLock(file, killed, async () => child.killed)).toBe(true);
});

import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, test } from "vitest";
import { cli } from "../../test/support/cli.ts";
import { fakeWeb } from "../../test/support/resolve.ts";
import { tempDir } from "../../test/support/temp-dir.ts";
import { COMMANDS } from "./program.ts";
import { packageVersion } from "./version.ts";

test("prints its version", async () => {
  expect(await cli(["--version"])).toEqual({ out: "1.2.3\n", err: "", code: 0 });
  expect(packageVersion()).toMatch(/^\d+\.\d+\.\d+/);
});

test.each([[[]], [["--help"]], [["help"]]])("%j lists every command", async (args) => {
  const { out, err, code } = await cli(args);
  for (const name of Object.keys(COMMANDS)) expect(out).toMatch(new RegExp(`^ {2}${name} `, "m"));
  expect({ err, code }).toEqual({ err: "", code: 0 });
});

test.each(Object.entries(COMMANDS))(
  "%s says of itself what the list says of it",
  async (name, { description, load }) => {
    const program = new Command();
    const io = { stdout() {}, stderr() {}, env: {}, cwd: "/", signal: new AbortController().signal, setExitCode() {} };
    (await load())(program, io);
    expect(program.commands.map((command) => [command.name(), command.description()])).toEqual([[name, description]]);
  },
);

test.each([
  { args: ["statsu"], message: "Did you mean status" },
  { args: ["status", "--nope"], message: "unknown option '--nope'" },
  { args: ["status", "-o", "xml"], message: "write wide, name, json or yaml" },
  { args: ["doctor", "--port", "70000"], message: "write a port from 0 to 65535" },
  { args: ["sessions", "delete"], message: "missing required argument 'id'" },
  { args: ["status", "--url", "localhost:8080"], message: "--url must be a URL, as http://127.0.0.1:8080" },
  { args: ["chat", "--max-tokens", "few", "hi"], message: "--max-tokens must be a whole number" },
])("$args is wrong usage: $message", async ({ args, message }) => {
  const { out, err, code } = await cli(args);
  expect({ out, code }).toEqual({ out: "", code: 2 });
  expect(err).toContain(message);
});

test("help of one command is its own", async () => {
  expect((await cli(["help", "status"])).out).toContain("--watch");
  expect((await cli(["status", "--help"])).out).toContain("--watch");
});

test("a default that is no text is told in words, and a file that is missing by its name", async () => {
  for (const command of ["dev", "router", "operator"])
    expect((await cli([command, "--help"])).out.replaceAll(/\s+/g, " ")).not.toContain("{}");
  expect(await cli(["dev", "-f", "none.yaml"])).toEqual({
    out: "",
    err: "llmpool: there is no file none.yaml\n",
    code: 1,
  });
});

test("dev takes --set, and its problems name it", async () => {
  const file = join(import.meta.dirname, "../../examples/stub.yaml");
  const { err, code } = await cli(["dev", "-f", file, "--set", "instances=few"]);
  expect({ err, code }).toEqual({
    code: 1,
    err: expect.stringMatching(/spec\.instances: .* \(set by --set instances\)\n$/),
  });
});

test("an error is one line; with --verbose it has its stack", async () => {
  expect(await cli(["status"])).toEqual({
    out: "",
    err: "llmpool: no pool runs here (.llmpool/dev.json names none): start one with: llmpool dev -f pool.yaml, or give --url\n",
    code: 1,
  });
  // npm says so to what it runs: from a checkout llmpool is not on the PATH.
  const env = { npm_lifecycle_event: "llmpool" };
  expect((await cli(["status"], { env })).err).toContain("start one with: npm start, or give --url");
  expect((await cli(["-v", "status"])).err).toMatch(/no pool runs here[\s\S]*connection\.ts:\d+/);
  expect((await cli(["status", "--verbose"])).err).toMatch(/connection\.ts:\d+/);
});

describe("the router is found", () => {
  const list = (data: object[]) => JSON.stringify({ object: "list", data });

  test("by --url, else LLMPOOL_URL, else the run file; the key comes from LLMPOOL_API_KEY", async () => {
    const web = await fakeWeb();
    web.on("/v1/sessions", (_, response) => response.end(list([{ id: "s1", last_used_at: "2026-01-01T00:00:00Z" }])));
    const wrong = "http://127.0.0.1:1";
    const here = web.url("");
    const names = (args: string[], env: Record<string, string>) => cli(["sessions", "-o", "name", ...args], { env });
    expect(await names(["--url", here], { LLMPOOL_URL: wrong, LLMPOOL_API_KEY: "k" })).toMatchObject({ out: "s1\n" });
    expect(web.seen[0]?.headers.authorization).toBe("Bearer k");
    expect(await names([], { LLMPOOL_URL: here })).toMatchObject({ out: "s1\n" });
    expect(await names(["--url", wrong], {})).toMatchObject({ code: 1, err: /cannot be reached/ });
  });

  test("but not by the run file of a process that has ended", async () => {
    const state = await tempDir();
    await writeFile(
      join(state, "dev.json"),
      JSON.stringify({ pid: process.pid, start: "another", pool: "p", url: "http://x" }),
    );
    expect(await cli(["status", "--state", state])).toMatchObject({ code: 1, err: /no pool runs here/ });
  });
});

test("loads no command but the one that is called", async () => {
  const code = `
    import { registerHooks } from "node:module";
    const seen = [];
    registerHooks({ load(url, context, next) { seen.push(url); return next(url, context); } });
    const { runCli } = await import(${JSON.stringify(new URL("./program.ts", import.meta.url).href)});
    const io = { stdout() {}, stderr() {}, env: {}, cwd: "/", signal: new AbortController().signal, setExitCode() {} };
    await runCli(["--help"], io, "1");
    console.log(seen.filter((url) => /commands|express|zod|undici|llama/.test(url)).join());`;
  const out = await new Promise<string>((resolve, reject) => {
    execFile(process.execPath, ["--input-type=module", "-e", code], (error, stdout) =>
      error ? reject(error) : resolve(stdout),
    );
  });
  expect(out).toBe("\n");
});

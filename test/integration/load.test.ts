import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { ModelFacts } from "../../src/api/model-facts.ts";
import { serveRepo } from "../support/fake-hub.ts";
import { file, status } from "../support/fake-web.ts";
import { makeGguf } from "../support/gguf.ts";
import { fakeWeb, sha256 } from "../support/resolve.ts";
import { makeSafetensors } from "../support/safetensors.ts";
import { tempDir } from "../support/temp-dir.ts";

const MAIN = join(import.meta.dirname, "../../src/cli/main.ts");
const commit = "c".repeat(40);

/** `llmpool load` as a loader Job runs it: facts to a file, reasons to the last line of the log. */
async function load(uri: string, env: Record<string, string> = {}, ...more: string[]) {
  const dir = await tempDir();
  const args = [MAIN, "load", uri, "--cache-dir", join(dir, "cache"), "--facts", join(dir, "facts"), ...more];
  const child = spawn(process.execPath, args, { env: { ...process.env, HTTP_PROXY: "", http_proxy: "", ...env } });
  onTestFinished(() => void child.kill("SIGKILL"));
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    log += text;
  });
  const [code] = (await once(child, "close")) as [number | null];
  const facts = await readFile(join(dir, "facts"), "utf8").catch(() => undefined);
  const last = JSON.parse(log.trim().split("\n").at(-1) || "{}") as { msg?: string; reason?: string };
  return { code, facts: facts && ModelFacts.parse(JSON.parse(facts)), last };
}

test("a GGUF is fetched, checked and described", async () => {
  const web = await fakeWeb();
  const content = makeGguf();
  web.on("/m.gguf", file(content));
  const { code, facts } = await load(web.url("/m.gguf"), {}, "--sha256", sha256(content));
  expect(code).toBe(0);
  expect(facts).toMatchObject({
    format: "gguf",
    path: expect.stringMatching(/^https\/[0-9a-f]+\/m[.]gguf$/),
    bytes: content.length,
    sha256: sha256(content),
    layers: 2,
  });
});

test("a repository of safetensors is fetched with its token, and described", async () => {
  const web = await fakeWeb();
  const config = { num_hidden_layers: 2, num_attention_heads: 4, hidden_size: 64 };
  const files = {
    "model.safetensors": makeSafetensors({ "a.q_proj.weight": ["BF16", [64, 64]] }),
    "config.json": Buffer.from(JSON.stringify(config)),
  };
  serveRepo(web, { repo: "org/chat", revision: "main", commit, files });
  const { code, facts } = await load("hf://org/chat", { HF_ENDPOINT: web.url(""), HF_TOKEN: "secret" });
  expect(code).toBe(0);
  expect(facts).toEqual({
    path: `hf/org/chat/${commit}/snapshot`,
    format: "safetensors",
    bytes: Object.values(files).reduce((sum, content) => sum + content.length, 0),
    layers: 2,
    kvHeads: 4,
    headSize: 16,
    kvBytesPerToken: 512,
    linearParameters: 4096,
    otherBytes: 0,
  });
  expect(web.seen[0]?.headers.authorization).toBe("Bearer secret");
});

test.each([
  { name: "is not there", answer: status(404), reason: "ModelNotFound", words: /has no .*m[.]gguf|m[.]gguf/ },
  { name: "needs a token", answer: status(401), reason: "ModelDownloadFailed", words: /credentials/ },
  { name: "is another", answer: file(makeGguf({ layers: 3 })), reason: "ModelInvalid", words: /was promised/ },
  { name: "is no GGUF", answer: file(Buffer.from("<html>")), reason: "ModelInvalid", words: /no GGUF file|promised/ },
])("a model that $name ends the loader with the reason and the cure", async ({ answer, reason, words }) => {
  const web = await fakeWeb();
  web.on("/m.gguf", answer);
  const { code, facts, last } = await load(web.url("/m.gguf"), {}, "--sha256", sha256(makeGguf()));
  expect([code, facts]).toEqual([1, undefined]);
  expect(last).toMatchObject({ reason, msg: expect.stringMatching(words) });
});

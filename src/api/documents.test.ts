import { describe, expect, test } from "vitest";
import { choosePool, readDocuments } from "./documents.ts";

const POOL = "apiVersion: llmpool.dev/v1alpha1\nkind: LLMPool\nmetadata: { name: apex }\nspec: { backend: stub }\n";
const secret = (rest: string) => `apiVersion: v1\nkind: Secret\nmetadata: { name: keys }\n${rest}`;
const complaint = (text: string) => {
  try {
    return choosePool(readDocuments(text, "pool.yaml"), "pool.yaml");
  } catch (error) {
    return (error as Error).message;
  }
};

test("reads pools and Secrets of one file, past empty documents", () => {
  const { pools, secrets } = readDocuments(
    `---\n${POOL}---\n---\n${secret("stringData: { a: one, b: clear }\ndata: { b: Y29kZWQ=, c: AAEC }\n")}`,
    "pool.yaml",
  );
  expect(pools).toHaveLength(1);
  const keys = Object.fromEntries([...(secrets.get("keys") ?? [])].map(([key, bytes]) => [key, [...bytes]]));
  expect(keys).toEqual({ a: [...Buffer.from("one")], b: [...Buffer.from("clear")], c: [0, 1, 2] });
});

test("reads JSON, merge keys and booleans as kubectl does", () => {
  expect(readDocuments('{"kind": "LLMPool"}', "x").pools).toEqual([{ kind: "LLMPool" }]);
  const { pools } = readDocuments("kind: LLMPool\na: &a { x: 1 }\nb: { <<: *a, z: yes }\n", "x");
  expect(pools[0]).toEqual({ kind: "LLMPool", a: { x: 1 }, b: { x: 1, z: true } });
});

test("chooses the pool that is named", () => {
  const documents = readDocuments(`${POOL}---\n${POOL.replace("apex", "other")}`, "x");
  expect(choosePool(documents, "x", "other")).toMatchObject({ metadata: { name: "other" } });
});

describe("says what is wrong, and where", () => {
  test.each([
    { name: "bad indentation", text: "a: [1\nb: 2", want: /^pool\.yaml: line 2, column 1: deficient indentation/ },
    { name: "a key twice", text: "a: 1\nb: 2\na: 3\n", want: /^pool\.yaml: line 3, column 1: duplicated mapping key/ },
    { name: "a tag that runs code", text: "a: !!js/function 'x'", want: /line 1, column 4: unknown scalar tag/ },
    { name: "nothing", text: "# only a comment\n", want: /^pool\.yaml: there is no pool \(it holds no LLMPool\)$/ },
    {
      name: "another kind",
      text: `${POOL}---\nkind: Pod\n`,
      want: /^pool\.yaml: document 2 is a Pod: only LLMPool and Secret are read$/,
    },
    { name: "a text", text: "hello", want: /document 1 is not an object/ },
    { name: "no kind", text: "a: 1", want: /document 1 is without a kind/ },
    {
      name: "two pools",
      text: `${POOL}---\n${POOL.replace("apex", "other")}`,
      want: /there are several pools: choose one by its name \(it holds apex, other\)$/,
    },
    {
      name: "a Secret that is no base64",
      text: secret("data: { a: '%%' }"),
      want: /data\.a: of Secret keys is not base64/,
    },
    {
      name: "a Secret with a number",
      text: secret("stringData: { a: 1 }"),
      want: /stringData\.a: of Secret keys is not a text/,
    },
    { name: "a Secret without a name", text: "kind: Secret\n", want: /metadata\.name: a Secret has no name/ },
    { name: "a Secret twice", text: `${secret("")}---\n${secret("")}`, want: /Secret keys is there twice/ },
    { name: "too much", text: `a: ${"x".repeat(1_600_000)}`, want: /is larger than 1572864 bytes/ },
    {
      name: "aliases of aliases",
      text: `kind: LLMPool\nx0: &x0 [x]\n${Array.from({ length: 30 }, (_, i) => `x${i + 1}: &x${i + 1} [*x${i}, *x${i}]`).join("\n")}`,
      want: /pool\.yaml: document 1 holds too many values/,
    },
    {
      name: "aliases without end",
      text: `a: &a [x]\n${Array.from({ length: 1001 }, () => "- *a")
        .join("\n")
        .replace(/^/, "b:\n")}`,
      want: /pool\.yaml: .*alias/i,
    },
  ])("$name", ({ text, want }) => {
    expect(complaint(text)).toMatch(want);
  });
});

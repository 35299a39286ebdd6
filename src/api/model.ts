import { z } from "zod";
import { formed, objectName, Quantity, rules, SecretKeyRef, text } from "./fields.ts";

export const BACKENDS = ["stub", "llama-cpp", "hf-cuda", "openai-compatible"] as const;

/** What can run; `openai-compatible` is reserved, and refused by a rule. */
export type Backend = Exclude<(typeof BACKENDS)[number], "openai-compatible">;

export const BackendName = z
  .enum(BACKENDS)
  .describe(
    "Engine: llama-cpp (GGUF; CPU, Metal, CUDA, Vulkan), hf-cuda (transformers, NF4) or stub (no model: a simulator for tests).",
  )
  .meta(
    rules({
      rule: "self != 'openai-compatible'",
      message: "backend: openai-compatible is not available yet: write llama-cpp, hf-cuda or stub",
    }),
  );

export const ModelCache = z
  .strictObject({
    storage: Quantity.optional().describe("Size of the volume that is made for the model's files, such as 40Gi."),
    storageClassName: objectName().optional().describe("Storage class of that volume. Default: the cluster's."),
    claimName: objectName()
      .optional()
      .describe("An existing PersistentVolumeClaim to keep the files on, in place of a new volume."),
  })
  .meta(
    rules(
      {
        rule: "has(self.storage) != has(self.claimName)",
        message: "model.cache: write either storage (a new volume of that size) or claimName (an existing claim)",
      },
      {
        rule: "!has(self.storageClassName) || has(self.storage)",
        message: "model.cache.storageClassName is for a new volume: write storage beside it, or remove it",
        fieldPath: ".storageClassName",
      },
    ),
  );

const URI_FORMS =
  "hf://org/repo[/file.gguf][@revision], file:///path, pvc://claim/path, https://host/file.gguf or pypi://package[@version][/file.gguf]";

/** One rule a scheme: a URI of that scheme must have its form. */
const uriForm = (scheme: string, pattern: string, form: string) => ({
  rule: `!self.uri.startsWith('${scheme}://') || self.uri.matches('^${scheme}://${pattern}$')`,
  message: `model.uri: write ${form}`,
  fieldPath: ".uri",
});

const SEGMENT = "[A-Za-z0-9][A-Za-z0-9._-]*";

export const Model = z
  .strictObject({
    uri: text(1024, 1).describe(`Where the model comes from: ${URI_FORMS}.`),
    sha256: formed(64, /^([0-9a-fA-F]{64})?$/, "64 hexadecimal digits, or nothing")
      .optional()
      .describe("SHA-256 of a single file, checked when given."),
    quantization: formed(32, /^[A-Za-z0-9_]*$/, "one word of letters, digits and '_'")
      .optional()
      .describe(
        "hf-cuda: nf4 (default), int8 or none. llama-cpp: what the GGUF holds, for people to read (Q4_K_M recommended).",
      ),
    memoryMiB: z
      .int32()
      .min(0)
      .max(16_777_216)
      .optional()
      .describe("What the weights take on the card, in MiB, when the operator cannot know. 0: not given."),
    secretRef: SecretKeyRef.optional().describe("Access token for the model's source."),
    cache: ModelCache.optional().describe(
      "Volume for the model's files, which a Job fills once, before any pod starts. Without it, each instance loads them itself.",
    ),
  })
  .meta(
    rules(
      {
        rule: "self.uri.matches('^(hf|file|pvc|https?|pypi|oci)://')",
        message: `model.uri: write ${URI_FORMS}`,
        fieldPath: ".uri",
      },
      {
        rule: "!self.uri.startsWith('oci://')",
        message: "model.uri: oci:// is not available yet: write hf://, file://, pvc://, https:// or pypi://",
        fieldPath: ".uri",
      },
      uriForm(
        "hf",
        `${SEGMENT}/${SEGMENT}(/[^@]+)?(@[A-Za-z0-9][A-Za-z0-9._/-]*)?`,
        "hf://org/repo[/file.gguf][@revision]",
      ),
      uriForm("file", "/[^?#]+", "file:///absolute/path (three slashes; %20 for a space)"),
      uriForm("pvc", "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/.+", "pvc://claim/path"),
      uriForm("https", "[^/?#]+/.+", "https://host/path/file.gguf"),
      uriForm("http", "(localhost|127[.][0-9.]+)(:[0-9]+)?/.+", "https://; http:// is only for the loopback address"),
      uriForm("pypi", `${SEGMENT}(@[A-Za-z0-9.!+]+)?(/.+)?`, "pypi://package[@version][/file.gguf]"),
      {
        rule: "!has(self.sha256) || self.sha256 == '' || !self.uri.startsWith('hf://') || self.uri.matches('[.]gguf(@.*)?$')",
        message:
          "model.sha256 is of a single file: name the file in model.uri (hf://org/repo/file.gguf), or remove sha256",
        fieldPath: ".sha256",
      },
    ),
  );
export type Model = z.infer<typeof Model>;

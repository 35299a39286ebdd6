import { z } from "zod";
import { formed, objectName, Quantity, rules, SecretKeyRef, text } from "./fields.ts";

export const BACKENDS = ["stub", "llama-cpp", "hf-cuda", "openai-compatible"] as const;

/** What can run today; `openai-compatible` is reserved and refused by a rule. */
export type Backend = Exclude<(typeof BACKENDS)[number], "openai-compatible">;

export const BackendName = z
  .enum(BACKENDS)
  .describe(
    "Engine of the instances: llama-cpp (GGUF; CPU, Metal, CUDA), hf-cuda (transformers, NF4) or stub (no model, for tests).",
  );

export const ModelCache = z
  .strictObject({
    storage: Quantity.optional().describe("Size of the volume to make for the model's files, such as 40Gi."),
    storageClassName: objectName().optional().describe("Storage class of that volume. Default: the cluster's."),
    claimName: objectName()
      .optional()
      .describe("An existing PersistentVolumeClaim to keep the files on, instead of a new volume."),
  })
  .meta(
    rules(
      {
        rule: "has(self.storage) != has(self.claimName)",
        message:
          "model.cache: write either storage (a new volume of that size) or claimName (an existing claim), not both and not neither",
      },
      {
        rule: "!has(self.storageClassName) || has(self.storage)",
        message: "model.cache.storageClassName belongs to a new volume: write storage beside it, or remove it",
        fieldPath: ".storageClassName",
      },
    ),
  );

export const Model = z
  .strictObject({
    uri: text(1024, 1).describe(
      "Where the model comes from: hf://org/repo[/file.gguf][@revision], file:///path, pvc://claim/path, https://host/file.gguf or pypi://package[@version][/file].",
    ),
    sha256: formed(64, /^([0-9a-fA-F]{64})?$/, "64 hexadecimal digits, or empty")
      .optional()
      .describe("SHA-256 of a single file, checked when given."),
    quantization: formed(32, /^[A-Za-z0-9_]*$/, "letters, digits and '_'")
      .optional()
      .describe(
        "hf-cuda: nf4 (default), int8 or none. llama-cpp: what the GGUF holds, for people to read (Q4_K_M recommended).",
      ),
    memoryMiB: z
      .int32()
      .min(0)
      .max(16_777_216)
      .optional()
      .describe("Memory that the weights take on the card, in MiB, where the operator cannot know it. 0: not given."),
    secretRef: SecretKeyRef.optional().describe("Access token for the model's source."),
    cache: ModelCache.optional().describe(
      "Volume that keeps the model's files. Without it each instance loads them itself.",
    ),
  })
  .meta(
    rules(
      {
        rule: "self.uri.matches('^(hf|file|pvc|https|pypi|oci)://')",
        message:
          "model.uri: write hf://org/repo[/file.gguf][@revision], file:///path, pvc://claim/path, https://host/file.gguf or pypi://package[@version][/file]",
        fieldPath: ".uri",
      },
      {
        rule: "!self.uri.startsWith('oci://')",
        message: "model.uri: oci:// is not available yet: write hf://, file://, pvc://, https:// or pypi://",
        fieldPath: ".uri",
      },
    ),
  );
export type Model = z.infer<typeof Model>;

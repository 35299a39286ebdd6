import { z } from "zod";

const count = () => z.coerce.number().int().min(0);
const amount = () => z.coerce.number().min(0);

/**
 * What is known of a model once its files are there. The loader of a model cache says it as JSON; on a cluster a ConfigMap keeps it, one key a
 * field, so numbers are also read from text. Sizes of the KV cache are absent where the model's metadata does not tell them.
 */
export const ModelFacts = z.strictObject({
  /** Of the file, or of the folder of all files, inside the cache. */
  path: z.string().min(1).max(1024),
  format: z.enum(["gguf", "safetensors", "other"]),
  /** Of all files. */
  bytes: count(),
  /** Of a single file. */
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  layers: count().optional(),
  /** Of one layer; the mean where layers differ. */
  kvHeads: amount().optional(),
  headSize: amount().optional(),
  /** KV cache of one token at 16 bit. */
  kvBytesPerToken: amount().optional(),
  /** Safetensors: parameters of the linear layers, which a quantization makes smaller. */
  linearParameters: count().optional(),
  /** Safetensors: everything else (embeddings, output layer, norms) at 16 bit. */
  otherBytes: count().optional(),
});
export type ModelFacts = z.infer<typeof ModelFacts>;

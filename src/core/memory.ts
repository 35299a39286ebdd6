import type { Backend } from "../api/llmpool.ts";
import type { ModelFacts } from "../api/model-facts.ts";

/** What one instance takes on its card, in bytes. */
export interface MemoryNeed {
  weights: number;
  /** Its sessions' KV caches, full; undefined: the model's shape is not known. */
  kv: number | undefined;
  /** What a process takes for being one: CUDA's context with its kernels. */
  context: number;
  /** Of what is known. */
  total: number;
}

export interface MemoryQuestion {
  backend: Backend;
  /** Of hf-cuda: `nf4`, `int8` or `none`. */
  quantization: string;
  facts: ModelFacts | undefined;
  /** What the pool's author says of the weights, in bytes; it wins over what is computed. */
  statedBytes: number | undefined;
  contextTokens: number;
  sessions: number;
}

/** One CUDA context with the libraries' kernels, on a card of the data centre kind: half a gibibyte, as nvidia-smi shows for a process that computes nothing. */
const CUDA_CONTEXT_BYTES = 512 * 2 ** 20;

/** Bytes of one parameter of a linear layer. NF4: half a byte, and for each 64 a scale of one byte, itself scaled for each 256 (double quantization). */
const BYTES_PER_PARAMETER: Readonly<Record<string, number>> = {
  nf4: 0.5 + 1 / 64 + 4 / (64 * 256),
  int8: 1,
  none: 2,
};

/** Undefined while nothing is known of the model's size. Embeddings, output layer and norms count at 16 bit: no quantization touches them. */
export function memoryNeed(question: MemoryQuestion): MemoryNeed | undefined {
  const { backend, facts, statedBytes, contextTokens, sessions } = question;
  if (backend === "stub") return undefined;
  const weights = statedBytes ?? (facts && weightsOf(facts, question.quantization));
  if (weights === undefined) return undefined;
  const perToken = facts?.kvBytesPerToken;
  const kv = perToken === undefined ? undefined : perToken * contextTokens * sessions;
  return { weights, kv, context: CUDA_CONTEXT_BYTES, total: weights + (kv ?? 0) + CUDA_CONTEXT_BYTES };
}

function weightsOf({ bytes, linearParameters, otherBytes }: ModelFacts, quantization: string): number {
  if (linearParameters === undefined || otherBytes === undefined) return bytes;
  return linearParameters * (BYTES_PER_PARAMETER[quantization] ?? 2) + otherBytes;
}

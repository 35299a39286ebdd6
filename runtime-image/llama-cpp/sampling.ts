import {
  type Llama,
  LlamaGrammarEvaluationState,
  type LlamaModel,
  type SequenceEvaluateOptions,
  type Token,
} from "node-llama-cpp";
import type { GenerateRequest, ToolDefinition } from "../../src/api/backend.ts";
import { LLMPoolError, messageOf } from "../../src/lib/errors.ts";
import { anyOf, GrammarBuilder, literal } from "./grammar/builder.ts";
import { SchemaError } from "./grammar/limits.ts";
import { compileSchema } from "./grammar/schema.ts";
import { CALL_CLOSE, CALL_OPEN } from "./tool-text.ts";

/**
 * The engine's sampling options. Penalties count the answer's own tokens, as OpenAI's do.
 * @param answer the tokens sampled so far; read at each step.
 * @param seed for requests without one.
 */
export function samplingOptions(
  request: GenerateRequest,
  answer: readonly Token[],
  seed: number,
): SequenceEvaluateOptions {
  const { temperature, topP, topK, minP, frequencyPenalty = 0, presencePenalty = 0 } = request.sampling;
  const penalties = frequencyPenalty !== 0 || presencePenalty !== 0;
  return {
    temperature: temperature < GREEDY_BELOW ? 0 : temperature,
    topP,
    minP: minP ?? 0,
    // The library's default is 40, and its 0 sorts the whole vocabulary for every token; null leaves the step out.
    topK: topK ?? (null as unknown as number),
    // Without one the library takes a new one every second: requests of one second would answer alike.
    seed: engineSeed(request.sampling.seed ?? seed),
    ...(penalties && {
      repeatPenalty: {
        punishTokens: () => [...answer],
        maxPunishTokens: PENALTY_WINDOW,
        penalty: 1,
        frequencyPenalty,
        presencePenalty,
      },
    }),
    yieldEogToken: true,
  };
}

/** Divided by less, logits leave the numbers that the engine has; far above this the largest already takes all. */
const GREEDY_BELOW = 1e-5;

/**
 * Any whole number as a seed of the engine, small ones as they are. It knows 32 bits, of which the largest means a new seed each time, and
 * makes 0 of all that is negative.
 */
export function engineSeed(seed: number): number {
  const rest = seed % ENGINE_SEEDS;
  // `+ 0`: a remainder may be minus zero.
  return rest < 0 ? rest + ENGINE_SEEDS : rest + 0;
}

const ENGINE_SEEDS = 2 ** 32 - 1;

/** A fixed window, so that the engine goes on counting where it was and does not begin again with each token. */
const PENALTY_WINDOW = 8192;

/** What an answer is held to: undefined for free text. Throws `invalid_request` for a schema that cannot be compiled. */
export function grammarOf(request: GenerateRequest, hermesCalls: boolean): string | undefined {
  const builder = new GrammarBuilder();
  const calls = forcedTools(request);
  if (calls) return builder.text(anyOf(calls.map((tool, i) => callExpression(tool, i, hermesCalls, builder))));
  const answer = answerExpression(request, builder);
  if (answer === undefined) return undefined;
  const optional = offeredTools(request);
  return builder.text(anyOf([answer, ...optional.map((tool, i) => callExpression(tool, i, hermesCalls, builder))]));
}

/** The state of one answer's grammar, or undefined for free text. */
export async function grammarState(
  text: string | undefined,
  llama: Llama,
  model: LlamaModel,
): Promise<LlamaGrammarEvaluationState | undefined> {
  if (text === undefined) return undefined;
  try {
    return new LlamaGrammarEvaluationState({ model, grammar: await llama.createGrammar({ grammar: text }) });
  } catch (error) {
    throw new LLMPoolError("invalid_request", `the schema cannot be enforced: ${messageOf(error)}`, {
      param: "response_format",
      cause: error,
    });
  }
}

/** Tools that the answer may call. */
export function offeredTools(request: GenerateRequest): readonly ToolDefinition[] {
  const { prompt } = request;
  return prompt.kind === "chat" && prompt.toolChoice !== "none" ? (prompt.tools ?? []) : [];
}

/** Tools of which the answer must call one; undefined when it need not. Throws `invalid_request` for a name that is not there. */
export function forcedTools(request: GenerateRequest): readonly ToolDefinition[] | undefined {
  const choice = request.prompt.kind === "chat" ? request.prompt.toolChoice : undefined;
  const tools = offeredTools(request);
  if (choice === undefined || choice === "auto" || choice === "none") return undefined;
  const chosen = choice === "required" ? tools : tools.filter((tool) => tool.function.name === choice.name);
  if (chosen.length > 0) return chosen;
  const names = tools.map((tool) => tool.function.name).join(", ") || "none";
  const wanted = choice === "required" ? "required" : JSON.stringify(choice.name);
  throw new LLMPoolError("invalid_request", `tool_choice is ${wanted}, but the tools are: ${names}`, {
    param: "tool_choice",
  });
}

function answerExpression({ responseFormat }: GenerateRequest, builder: GrammarBuilder): string | undefined {
  if (responseFormat.type === "text") return undefined;
  if (responseFormat.type === "json_object") return "object";
  return compile(responseFormat.schema, builder, "response_format.json_schema.schema");
}

function callExpression(tool: ToolDefinition, index: number, hermesCalls: boolean, builder: GrammarBuilder): string {
  const parameters = tool.function.parameters ?? { type: "object" };
  const args = compile({ type: "object", ...parameters }, builder, `tools[${index}].function.parameters`);
  const call = `${literal(`{"name": ${JSON.stringify(tool.function.name)}, "arguments": `)} ${args} "}"`;
  return builder.rule(
    "call",
    hermesCalls ? `${literal(`${CALL_OPEN}\n`)} ${call} ${literal(`\n${CALL_CLOSE}`)}` : call,
  );
}

function compile(schema: unknown, builder: GrammarBuilder, param: string): string {
  try {
    return compileSchema(schema, builder);
  } catch (error) {
    if (!(error instanceof SchemaError)) throw error;
    const where = error.path === "" ? "" : ` at ${error.path}`;
    throw new LLMPoolError("invalid_request", `the schema cannot be enforced${where}: ${error.message}`, { param });
  }
}

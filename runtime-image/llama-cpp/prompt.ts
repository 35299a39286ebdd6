import type { LlamaModel, Token } from "node-llama-cpp";
import type { Prompt } from "../../src/api/backend.ts";
import { LLMPoolError } from "../../src/lib/errors.ts";
import { ControlTokens } from "./control-tokens.ts";
import type { ModelFile } from "./model-file.ts";
import { ChatTemplate } from "./template.ts";

/** Turns prompts into tokens. The same prompt gives the same tokens, whatever is cached. */
export class Prompts {
  readonly #model: LlamaModel;
  readonly #control: ControlTokens;
  readonly #longestTokenBytes: number;
  readonly #contextTokens: number;
  readonly chat: ChatTemplate | undefined;

  /** Throws an Error when the model's chat template is no template. */
  constructor(model: LlamaModel, file: ModelFile, contextTokens: number) {
    this.#model = model;
    this.#control = new ControlTokens(file.controlTokens);
    this.#longestTokenBytes = file.longestTokenBytes;
    this.#contextTokens = contextTokens;
    const { bosString, eosString } = model.tokens;
    const options = { bosToken: bosString ?? "", eosToken: eosString ?? "", control: this.#control };
    this.chat = file.chatTemplate === undefined ? undefined : new ChatTemplate(file.chatTemplate, options);
  }

  /** Throws `invalid_request` when the template refuses, `context_length_exceeded` when there is no room for an answer of one token. */
  tokens(prompt: Prompt): Token[] {
    const tokens = prompt.kind === "raw" ? this.#raw(prompt.text) : this.#chat(prompt);
    if (tokens.length === 0)
      throw new LLMPoolError("invalid_request", "the prompt is empty", {
        param: prompt.kind === "raw" ? "prompt" : "messages",
      });
    if (tokens.length >= this.#contextTokens) throw this.#tooLong(tokens.length, prompt);
    return tokens;
  }

  #chat(prompt: Extract<Prompt, { kind: "chat" }>): Token[] {
    if (!this.chat) {
      throw new LLMPoolError(
        "invalid_request",
        "this model has no chat template: use /v1/completions with a plain prompt",
        { param: "messages" },
      );
    }
    const tools = prompt.toolChoice === "none" ? [] : (prompt.tools ?? []);
    return this.#tokenize(this.chat.render(prompt.messages, tools), prompt);
  }

  /** Plain text gets what the tokenizer puts in front, which a chat template writes itself. */
  #raw(text: string): Token[] {
    const tokens = this.#tokenize([text], { kind: "raw", text });
    const { bos, shouldPrependBosToken } = this.#model.tokens;
    return shouldPrependBosToken && bos !== null && tokens[0] !== bos ? [bos, ...tokens] : tokens;
  }

  #tokenize(segments: readonly string[], prompt: Prompt): Token[] {
    // A text that cannot fit is refused unseen: tokenising holds up everything else in this process.
    const bytes = segments.reduce((sum, segment) => sum + Buffer.byteLength(segment), 0);
    const atLeast = Math.ceil(bytes / this.#longestTokenBytes);
    if (atLeast >= this.#contextTokens) throw this.#tooLong(atLeast, prompt, "at least ");
    const tokens: Token[] = [];
    for (const [i, segment] of segments.entries()) {
      for (const piece of this.#control.pieces(segment)) {
        // Halves of a cut text are not beginnings: no space belongs in front of them.
        for (const token of i === 0
          ? this.#model.tokenize(piece, true)
          : this.#model.tokenize(piece, true, "trimLeadingSpace"))
          tokens.push(token);
      }
    }
    return tokens;
  }

  #tooLong(tokens: number, prompt: Prompt, how = ""): LLMPoolError {
    const param = prompt.kind === "raw" ? "prompt" : "messages";
    return new LLMPoolError(
      "context_length_exceeded",
      `the prompt has ${how}${tokens} tokens, and the context of this pool is ${this.#contextTokens} (at least one is for the answer): shorten the ${param}, or raise contextTokens`,
      { param },
    );
  }
}

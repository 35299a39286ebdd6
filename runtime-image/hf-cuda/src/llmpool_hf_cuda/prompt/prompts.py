"""Turns prompts into tokens. The same prompt gives the same tokens, whatever is cached."""

from typing import Any

from ..api import Prompt
from ..errors import LLMPoolError
from .control_tokens import ControlTokens
from .template import ChatTemplate


class Prompts:
    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        """`tokenizer`: a fast one of transformers. Raises when the chat template is no template."""
        self._tokenizer = tokenizer
        # The wrapper around it may change its state with a call, which fails when another thread is in it at that moment.
        self._fast = tokenizer.backend_tokenizer
        self._fast.no_truncation()
        self._fast.no_padding()
        self._context_tokens = context_tokens
        self._longest = max(len(text.encode()) for text in tokenizer.get_vocab())
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        source = tokenizer.chat_template
        self.chat = ChatTemplate(source, self._render, ControlTokens(added)) if isinstance(source, str) else None

    def tokens(self, prompt: Prompt) -> list[int]:
        """Raises `invalid_request` when the template refuses, `context_length_exceeded` without room for an answer of one token."""
        tokens = self._chat(prompt) if prompt.text is None else self._tokenize([prompt.text], prompt, raw=True)
        if not tokens:
            raise LLMPoolError("invalid_request", "the prompt is empty", param=prompt.param)
        if len(tokens) >= self._context_tokens:
            raise self._too_long(len(tokens), prompt)
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Control tokens are left out."""
        text: str = self._fast.decode(tokens, skip_special_tokens=True)
        return text

    def _chat(self, prompt: Prompt) -> list[int]:
        if self.chat is None:
            raise LLMPoolError(
                "invalid_request",
                "this model has no chat template: use /v1/completions with a plain prompt",
                param="messages",
            )
        tools = () if prompt.tool_choice == "none" else prompt.tools
        return self._tokenize(self.chat.render(prompt.messages, tools), prompt, raw=False)

    def _tokenize(self, segments: list[str], prompt: Prompt, *, raw: bool) -> list[int]:
        # A text that cannot fit is refused unseen: tokenising it costs time and memory.
        at_least = -(-sum(len(segment.encode()) for segment in segments) // self._longest)
        if at_least >= self._context_tokens:
            raise self._too_long(at_least, prompt, "at least ")
        # Plain text gets what the tokenizer puts in front, which a chat template writes itself.
        return [token for s in segments for token in self._fast.encode(s, add_special_tokens=raw).ids]

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        return text

    def _too_long(self, tokens: int, prompt: Prompt, how: str = "") -> LLMPoolError:
        return LLMPoolError(
            "context_length_exceeded",
            f"the prompt has {how}{tokens} tokens, and the context of this pool is {self._context_tokens} (at least one is "
            f"for the answer): shorten the {prompt.param}, or raise contextTokens",
            param=prompt.param,
        )

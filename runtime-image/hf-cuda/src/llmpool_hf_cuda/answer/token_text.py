"""Tokens to text as they come."""

from collections.abc import Callable

Decode = Callable[[list[int]], str]

REPLACEMENT = "\ufffd"
PATIENCE = 4
"""A character has at most four bytes: after so many tokens without a step forward the bytes are no character at all."""
CONTEXT_TOKENS = 4
"""Tokenizers that write spaces in front of words look at the tokens before."""


class TokenText:
    """Bytes of a character that is not whole yet are held back; what never becomes one is dropped with this object."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._before_text = ""
        self._pending: list[int] = []
        self._out = 0
        self._waits = 0

    def push(self, token: int) -> str:
        """The text that became certain with this token."""
        self._pending.append(token)
        text = self._text()
        whole = text.rstrip(REPLACEMENT)
        self._waits = 0 if len(whole) > self._out else self._waits + 1
        done = len(whole) == len(text) or self._waits >= PATIENCE
        piece = (text if done else whole)[self._out :]
        if done:
            self._before = [*self._before, *self._pending][-CONTEXT_TOKENS:]
            self._before_text = self._decode(self._before)
            self._pending, self._out, self._waits = [], 0, 0
        else:
            self._out = max(self._out, len(whole))
        return piece

    def _text(self) -> str:
        """Of the pending tokens, as they read behind those before."""
        text = self._decode([*self._before, *self._pending])
        return text[len(self._before_text) :] if text.startswith(self._before_text) else self._decode(self._pending)

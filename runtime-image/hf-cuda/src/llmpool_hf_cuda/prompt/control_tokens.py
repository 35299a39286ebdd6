"""Keeps what callers wrote from becoming control tokens, such as `<|im_end|>`."""

import re
from collections.abc import Iterable

MARKS = [chr(0xFDD0 + i) for i in range(32)]
"""Unicode noncharacters, which mean nothing in any text."""


class ControlTokens:
    """The texts that a tokenizer turns into tokens of their own."""

    def __init__(self, texts: Iterable[str]) -> None:
        # Longest first, as the tokenizer takes the longest match.
        ordered = sorted({text for text in texts if text}, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(text[0]) + f"(?={re.escape(text[1:])})" for text in ordered))
        self._empty = not ordered

    def disarm(self, text: str, mark: str) -> str:
        """
        Where `mark` stands the prompt is cut before it is tokenised, and neither half is a control token. Otherwise a message could close
        its own turn and speak as the system.
        """
        return text if self._empty else self._pattern.sub(lambda hit: hit.group() + mark, text)

"""Bytes of a body to JSON, with errors that name the place."""

import json
import re
from typing import Any, NoReturn

from ..errors import LLMPoolError

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]')


def parse_json(data: bytes) -> Any:
    """Raises `invalid_request`. Halves of UTF-16 pairs, which no tokenizer takes, become U+FFFD."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LLMPoolError("invalid_request", "the body is not UTF-8") from error
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise LLMPoolError("invalid_request", "is nested too deeply", param=_deep_field(text)) from error
    except ValueError as error:
        raise LLMPoolError("invalid_request", "the body is not JSON") from error
    return _whole_characters(value) if re.search(r"\\u[dD][89a-fA-F]", text) else value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _deep_field(text: str) -> str:
    """Names the field, and the place in its list, where nesting goes too deep."""
    path: list[str | int] = []
    key = ""
    deepest: list[str | int] = []
    for found in _TOKENS.finditer(text):
        token = found.group()
        if token[0] == '"':
            key = token[1:-1]
        elif token in "{[":
            path.append(0 if token == "[" else "")
        elif token in "]}":
            path = path[:-1]
        elif token == ":" and path:
            path[-1] = key
        elif path and isinstance(path[-1], int):
            path[-1] += 1
        if len(path) > 64:
            deepest = path[:2]
            break
    return "".join(f"[{part}]" if isinstance(part, int) else part for part in deepest)


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value

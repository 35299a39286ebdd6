"""Answers that must have a form: JSON schemas and forced tool calls, by llguidance."""

import json
from typing import Any

import llguidance
import llguidance.hf
import numpy as np
import torch

from ..api import GenerateRequest, Tool
from ..errors import LLMPoolError
from ..prompt.tool_text import CALL_CLOSE, CALL_OPEN

STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""A grammar that allows any white space lets small models write line feeds for ever."""

LIMITS = llguidance.LLParserLimits(max_items_in_row=2_000, initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, max_grammar_size=100_000)
"""What a grammar may cost: a schema beyond is refused, not computed."""


class Grammar:
    """The state of one answer's form."""

    def __init__(self, matcher: llguidance.LLMatcher, param: str) -> None:
        self._matcher = matcher
        self._param = param

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits with what the form forbids at minus infinity. Raises `invalid_request` when the form costs too much to follow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed = np.unpackbits(bits, bitorder="little", count=min(bits.size * 8, logits.numel())).astype(bool)
        keep = torch.zeros(logits.numel(), dtype=torch.bool)
        keep[: allowed.size] = torch.from_numpy(allowed)
        return logits.masked_fill(~keep.to(logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """True when nothing can follow but the end."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _unenforceable(self._matcher.get_error(), self._param)


class Grammars:
    """Compiles what requests ask for. Its tokenizer table is made once."""

    def __init__(self, tokenizer: Any, vocabulary: int, *, hermes_calls: bool, end_tokens: list[int]) -> None:
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end_tokens or None)
        self._hermes_calls = hermes_calls

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for; of a control token its name."""
        return bytes(self._tokenizer.decode_bytes([token]))

    def of(self, request: GenerateRequest) -> Grammar | None:
        """None for free text. Raises `invalid_request` that names what cannot be enforced."""
        forced = forced_tools(request)
        rules: list[str] = []
        param = "response_format.json_schema.schema"
        if forced is not None:
            param = "tools"
            choices = [self._call(tool, i, rules) for i, tool in enumerate(forced)]
        elif request.response_schema is not None:
            rules.append(f"answer: {_json_rule(request.response_schema)}")
            choices = ["answer", *(self._call(tool, i, rules) for i, tool in enumerate(offered_tools(request)))]
        else:
            return None
        lark = "\n".join([f"start: {' | '.join(choices)}", *rules])
        matcher = llguidance.LLMatcher(self._tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), limits=LIMITS, log_level=0)
        grammar = Grammar(matcher, param)
        grammar._check()
        return grammar

    def _call(self, tool: Tool, index: int, rules: list[str]) -> str:
        head = f'{{"name": {json.dumps(tool.name)}, "arguments": '
        opening, closing = (f"{CALL_OPEN}\n{head}", f"}}\n{CALL_CLOSE}") if self._hermes_calls else (head, "}")
        parameters = {"type": "object", **(tool.parameters or {})}
        rules.append(f"arguments_{index}: {_json_rule(parameters)}")
        rules.append(f"call_{index}: {json.dumps(opening)} arguments_{index} {json.dumps(closing)}")
        return f"call_{index}"


def offered_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """Tools that the answer may call."""
    return () if request.prompt.tool_choice == "none" else request.prompt.tools


def forced_tools(request: GenerateRequest) -> tuple[Tool, ...] | None:
    """Tools of which the answer must call one; None when it need not."""
    choice = request.prompt.tool_choice
    if choice == "required":
        return request.prompt.tools
    if choice.startswith("="):
        return tuple(tool for tool in request.prompt.tools if tool.name == choice[1:])
    return None


def _json_rule(schema: dict[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': STYLE})}"


def _unenforceable(reason: str, param: str) -> LLMPoolError:
    short = reason.strip().splitlines()[0][:300] if reason.strip() else "unknown reason"
    return LLMPoolError("invalid_request", f"the schema cannot be enforced: {short}", param=param)

"""Tokens to text and calls: stop strings, half characters, tool calls in pieces."""

import json

import pytest

from llmpool_hf_cuda.answer.answer import Answer
from llmpool_hf_cuda.answer.stop import StopDetector
from llmpool_hf_cuda.answer.token_text import TokenText
from llmpool_hf_cuda.answer.tool_parser import ParsedCall, ToolParser

ABOUT_TAGS = r'{"name": "weather", "arguments": {"city": "\"</tool_call> <tool_call></tool_call>"}}'
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'


def _bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("stops", "text", "want"),
    [
        (("END",), "some text END more", "some text "),
        (("aab",), "aaaab", "aa"),
        (("xyz", "yz"), "wxyz", "w"),
        (("never",), "nev never", "nev "),
        (("never",), "nothing of it neve", "nothing of it neve"),
    ],
)
def test_no_part_of_a_stop_string_leaves(stops: tuple[str, ...], text: str, want: str, size: int) -> None:
    detector = StopDetector(stops)
    out = ""
    for at in range(0, len(text), size):
        piece, stopped = detector.push(text[at : at + size])
        out += piece
        if stopped:
            assert out == want
            return
    assert out + detector.flush() == want


def test_half_characters_wait_for_their_rest() -> None:
    text = TokenText(_bytes)
    pieces = [text.push(byte) for byte in "aé€😀".encode()]
    assert "".join(pieces) == "aé€😀"
    assert all("\ufffd" not in piece for piece in pieces)


def test_bytes_that_are_no_character_do_not_hold_up_the_rest() -> None:
    text = TokenText(_bytes)
    out = "".join(text.push(byte) for byte in b"\xff\xfe\xfd\xfc\xfbok")
    assert out.endswith("ok")


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "want"),
    [
        (f"<tool_call>{CALL}</tool_call>", [ParsedCall("weather", '{"city":"Paris"}')]),
        (f"I look. <tool_call>\n{CALL}\n</tool_call>", ["I look. ", ParsedCall("weather", '{"city":"Paris"}')]),
        (CALL, [ParsedCall("weather", '{"city":"Paris"}')]),
        (f"{CALL};\n{CALL}", [ParsedCall("weather", '{"city":"Paris"}')] * 2),
        (f"<tool_call>{CALL}", [ParsedCall("weather", '{"city":"Paris"}')]),
        ('{"name": "other", "arguments": {}}', ['{"name": "other", "arguments": {}}']),
        ("<tool_call>no</tool_call>", ["<tool_call>no</tool_call>"]),
        ('{"type": "function", "function": {"name": "weather", "parameters": {}}}', [ParsedCall("weather", "{}")]),
        ("a < b", ["a < b"]),
        (
            f"<tool_call>{ABOUT_TAGS}</tool_call><tool_call>{CALL}</tool_call>",
            [ParsedCall("weather", '{"city":"\\"</tool_call> <tool_call></tool_call>"}'), ParsedCall("weather", '{"city":"Paris"}')],
        ),
        (f"<tool_call>[{ABOUT_TAGS}]\n</tool_call>", [ParsedCall("weather", '{"city":"\\"</tool_call> <tool_call></tool_call>"}')]),
        (f"<tool_call>{ABOUT_TAGS}", [ParsedCall("weather", '{"city":"\\"</tool_call> <tool_call></tool_call>"}')]),
        (
            f'<tool_call>{{"name": "weather"</tool_call> and <tool_call>{CALL}</tool_call>',
            ['<tool_call>{"name": "weather"</tool_call> and ', ParsedCall("weather", '{"city":"Paris"}')],
        ),
        (
            f'<tool_call>{{"name": "weather}}</tool_call><tool_call>{CALL}</tool_call>.',
            ['<tool_call>{"name": "weather}</tool_call>', ParsedCall("weather", '{"city":"Paris"}'), "."],
        ),
        ('<tool_call>5" {wide</tool_call>"', ['<tool_call>5" {wide</tool_call>"']),
    ],
)
def test_calls_are_found_however_the_text_is_cut(text: str, want: list[object], size: int) -> None:
    parser = ToolParser(["weather"])
    parts: list[object] = []
    for at in range(0, len(text), size):
        parts += parser.push(text[at : at + size])
    parts += parser.flush()
    joined: list[object] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    assert joined == want


def test_every_token_is_counted_and_a_whole_json_ends_the_answer() -> None:
    answer = Answer("r", _bytes, stop=(), tools=(), json=True, call_only=False)
    total = 0
    for i, byte in enumerate(b'{"a": [1]} and'):
        events, over = answer.push(byte)
        total += sum(event.tokens for event in events)
        assert total == i + 1
        if over:
            break
    assert total == len('{"a": [1]}')


def test_a_call_has_an_id_of_nine_letters_that_is_always_the_same() -> None:
    def ask() -> str:
        answer = Answer("r1", _bytes, stop=(), tools=("weather",), json=False, call_only=False)
        events = [event for byte in CALL.encode() for event in answer.push(byte)[0]] + answer.end(0)
        [call] = [event.call for event in events if event.call]
        assert json.loads(call.arguments) == {"city": "Paris"}
        assert answer.finish_reason("stop") == "tool_calls"
        return call.id

    assert ask() == ask()
    assert len(ask()) == 9

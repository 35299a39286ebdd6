"""Rules of the HTTP side that need no model."""

import asyncio
import json
import time

import pytest

from llmpool_hf_cuda.errors import LLMPoolError
from llmpool_hf_cuda.server.bodies import CHAT_BODY, COMPLETION_BODY, ChatBody, parse_body
from llmpool_hf_cuda.server.headers import session_of_path
from llmpool_hf_cuda.server.json_text import parse_json
from llmpool_hf_cuda.server.records import UsageRecords
from llmpool_hf_cuda.server.slots import Place, Slots

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("[" * 10_000, ""),
        ('{"messages": ' + "[" * 5_000, "messages[0]"),
        ('{"model": "a]{", "tools": [1, {"x": 2}, ' + "[" * 5_000, "tools[2]"),
    ],
)
def test_deep_json_is_refused_by_its_place(text: str, param: str) -> None:
    with pytest.raises(LLMPoolError) as failed:
        parse_json(text.encode())
    assert failed.value.code == "invalid_request"
    if param:
        assert failed.value.param == param


def test_halves_of_characters_are_replaced() -> None:
    assert parse_json(b'{"a\\ud800": ["\\udc00x", "\\ud83d\\ude00"]}') == {"a\ufffd": ["\ufffdx", "😀"]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": HI * 5000}, "messages"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": 1}, "stream"),
        ({"n": True}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"tools": [{"type": "browser"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_the_field_at_fault_is_named(change: dict[str, object], param: str) -> None:
    with pytest.raises(LLMPoolError) as failed:
        parse_body(CHAT_BODY, {"messages": HI, **change})
    assert failed.value.param == param


def test_what_is_not_known_is_ignored_and_null_is_absent() -> None:
    body = parse_body(CHAT_BODY, {"messages": HI, "n": None, "temperature": None, "store": True, "logprobs": False})
    assert isinstance(body, ChatBody)
    assert body.sampling().temperature == 1.0
    assert parse_body(COMPLETION_BODY, {"prompt": "x", "max_tokens": 3, "temperature": 0}).sampling().temperature == 0


def test_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = parse_body(CHAT_BODY, json.loads(json.dumps({"messages": [{"role": "user", "content": parts}]})))
    assert body.prompt().messages[0].content == "a\nb"


@pytest.mark.parametrize(("part", "session"), [("a", "a"), ("a%2Fb", "a/b"), ("%7e", "~")])
def test_sessions_are_percent_encoded(part: str, session: str) -> None:
    assert session_of_path(part) == session


@pytest.mark.parametrize("part", ["%", "%zz", "%00", "%20", "x" * 513, "%ff"])
def test_bad_session_keys(part: str) -> None:
    with pytest.raises(LLMPoolError):
        session_of_path(part)


def test_slots_let_later_ones_pass_a_busy_session() -> None:
    async def run() -> None:
        slots = Slots(2, 2, lambda _: None)
        order: list[str] = []
        gates = {name: asyncio.Event() for name in ("a1", "a2", "b")}

        async def work(name: str, session: str) -> None:
            async with slots.hold(session):
                order.append(name)
                await gates[name].wait()

        tasks = []
        for name, session in (("a1", "a"), ("a2", "a"), ("b", "b")):
            tasks.append(asyncio.create_task(work(name, session)))
            await asyncio.sleep(0)
        assert order == ["a1", "b"]
        assert (slots.running, slots.waiting) == (2, 1)
        waiting = asyncio.create_task(work("a2", "a"))
        await asyncio.sleep(0)
        with pytest.raises(LLMPoolError, match="wait on this instance"):
            await work("b", "c")
        waiting.cancel()
        for gate in gates.values():
            gate.set()
        await asyncio.gather(*tasks)
        await slots.idle()
        assert (slots.running, slots.waiting, order) == (0, 0, ["a1", "b", "a2"])

    asyncio.run(run())


def test_a_line_is_ordered_by_deadline_and_fair_shares() -> None:
    async def run() -> None:
        slots = Slots(1, 64, lambda _: None)
        order: list[str] = []
        places: list[int] = []

        async def work(name: str, place: Place) -> None:
            async with slots.hold(None, place):
                order.append(name)
                await asyncio.sleep(0)

        now = time.monotonic()
        tasks = []
        async with slots.hold(None, Place("first")):
            for name, flow, left in (("late", "late", 900), ("g1", "g", 50), ("g2", "g", 10), ("g3", "g", 10), ("early", "early", 60)):
                place = Place(flow, deadline=now + left, on_position=places.append if name == "late" else None)
                tasks.append(asyncio.create_task(work(name, place)))
                await asyncio.sleep(0)
            assert slots.waiting == 5
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await slots.idle()
        # The greedy flow is one turn ahead at most, whatever its deadlines.
        assert order == ["g1", "g2", "early", "late", "g3"]
        assert len(places) == 2 and places[-1] == 0

    asyncio.run(run())


def test_nothing_begins_after_its_deadline() -> None:
    async def run() -> None:
        slots = Slots(1, 64, lambda _: None)
        async with slots.hold(None):
            place = Place("f", deadline=time.monotonic() + 0.01, late="episode_deadline_exceeded")
            with pytest.raises(LLMPoolError, match="the end of its episode"):
                async with slots.hold(None, place):
                    pytest.fail("it began")
            with pytest.raises(LLMPoolError, match="0 requests wait"):
                async with slots.hold(None, Place("f", most_waiting=0)):
                    pytest.fail("it began")
        await slots.idle()
        assert (slots.running, slots.waiting) == (0, 0)

    asyncio.run(run())


def test_one_id_is_one_usage() -> None:
    async def run() -> None:
        records = UsageRecords()
        record = records.open("r")
        with pytest.raises(LLMPoolError):
            records.open("r")
        waiting = asyncio.create_task(records.find("r", 10))
        await asyncio.sleep(0)
        records.close(record)
        assert (await waiting) is record
        records.open("r")  # it used nothing
        assert await records.find("unknown", 0) is None
        with pytest.raises(LLMPoolError, match="answered as unknown"):
            records.open("unknown")

    asyncio.run(run())

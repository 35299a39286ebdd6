"""Each bad input is a typed error that names the cause, and leaves nothing allocated."""

import asyncio
import http.server
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig, answer, request

from llmpool_hf_cuda.api import Message, Prompt
from llmpool_hf_cuda.backend import Backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.errors import LLMPoolError, StartError
from llmpool_hf_cuda.model.folder import check_folder
from llmpool_hf_cuda.model.source import model_folder

Make = Callable[[InstanceConfig], Backend]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_unknown_folder(config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="there is no folder") as failed:
        model_folder(config(tmp_path / "none"), {})
    assert failed.value.reason == "ModelNotFound"


def _refused(folder: Path, words: str) -> None:
    with pytest.raises(StartError, match=words) as failed:
        check_folder(folder)
    assert failed.value.reason == "ModelInvalid"


def test_pickled_weights(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    _refused(copy, "pytorch_model.bin is a pickle")


def test_code_in_the_repository(copy: Path) -> None:
    (copy / "modeling_mine.py").write_text("raise SystemExit('ran')")
    _refused(copy, "modeling_mine.py.*never run here")


def test_code_named_by_the_configuration(copy: Path) -> None:
    file = copy / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoConfig": "other/repo--x.Y"}}))
    _refused(copy, "auto_map")


@pytest.mark.parametrize("keep", [0, 4, 100, 500_000])
def test_truncated_safetensors(copy: Path, keep: int) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    _refused(copy, "model.safetensors is cut off or damaged")


def test_missing_shard(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    _refused(copy, "model-00002-of-00002.safetensors is missing")


class _Hub(http.server.BaseHTTPRequestHandler):
    code = ""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", self.code)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{server.server_port}")
    yield _Hub
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "words"), [("RepoNotFound", "the hub has no org/none"), ("RevisionNotFound", "org/none has no revision v9")]
)
def test_unknown_on_the_hub(hub: type[_Hub], config: MakeConfig, tmp_path: Path, code: str, words: str) -> None:
    hub.code = code
    asked = config(tmp_path, model={"uri": "hf://org/none@v9", "sha256": "", "quantization": ""})
    with pytest.raises(StartError, match=words) as failed:
        model_folder(asked, {})
    assert failed.value.reason == "ModelNotFound"


def test_offline_without_the_files(config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = config(tmp_path, model={"uri": f"hf://org/none@{'0' * 40}", "sha256": "", "quantization": ""})
    with pytest.raises(StartError, match="the hub did not answer") as failed:
        model_folder(asked, {})
    assert failed.value.reason == "ModelDownloadFailed"


def test_context_beyond_the_model(tiny: Path, config: MakeConfig, backends: Make) -> None:
    with pytest.raises(StartError, match="at most 4096") as failed:
        backends(config(tiny, contextTokens=4097))
    assert failed.value.reason == "ConfigInvalid"


def test_refused_requests_leave_nothing(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    backend = backends(config(tiny))
    chat = Prompt(messages=(Message("user", "x"),))
    exploding = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(([a-z]{1,200}){1,200}){1,200}$"}},
        "required": ["a"],
    }
    cases = [
        (request("word " * 600), "context_length_exceeded"),
        (request("x", max_total_tokens=1), "budget_exhausted"),
        (request("", prompt=chat, response_schema=exploding), "invalid_request"),
        (request("", prompt=chat, response_schema={"type": "object", "not": {"type": "string"}}), "invalid_request"),
    ]

    async def run() -> None:
        for asked, code in cases:
            with pytest.raises(LLMPoolError) as failed:
                await answer(backend, asked)
            assert failed.value.code == code, failed.value
        assert backend.stats() == (0, 0.0)
        await answer(backend, request("it lives"))
        assert backend.stats() == (0, 0.0)

    asyncio.run(run())
    assert list((tmp_path / "state").iterdir()) == []


def test_all_cells_in_use(tiny: Path, config: MakeConfig, backends: Make) -> None:
    """The server lets as many in as there are rows; whoever comes past it is refused and not queued."""
    backend = backends(config(tiny, sessions=1))

    async def run() -> None:
        first = backend.generate(request("Once", 400, session="a"))
        await anext(first)
        with pytest.raises(LLMPoolError, match="all KV cells are in use") as failed:
            await answer(backend, request("Twice"))
        assert failed.value.code == "instance_unavailable"
        await first.aclose()
        await answer(backend, request("Twice"))

    asyncio.run(run())


def test_import_from_elsewhere(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    here = backends(config(tiny))
    there = backends(config(tiny, "nf4", stateDir=str(tmp_path / "there")))

    async def run() -> None:
        await answer(there, request("Once upon a time", session="a"))
        data = b"".join(await there.export_session("a"))
        middle = len(data) // 2
        cases = [
            (data, "from another model"),
            (data[:middle], "damaged"),
            (b"\x07" * 4096, "damaged"),
            (b"", "damaged"),
            (b"x" * (8 << 20), "larger than"),
        ]
        for bad, words in cases:
            with pytest.raises(LLMPoolError, match=words) as failed:
                await here.import_session("a", _parts(bad))
            assert failed.value.code == "invalid_request"
        flipped = data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :]
        with pytest.raises(LLMPoolError, match="damaged"):
            await there.import_session("b", _parts(flipped))
        assert here.stats() == (0, 0.0)

    asyncio.run(run())
    assert list((tmp_path / "state").iterdir()) == []
    assert list((tmp_path / "there").iterdir()) == []


def test_a_step_without_memory_fails_one_request(tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt whose chunks find no memory, however small, ends with a typed error; who decodes beside it goes on."""
    backend = backends(config(tiny))
    engine = backend._engine
    forward = engine._forward

    def short_of_memory(segments: list[object], tokens: list[int], wanted: int) -> torch.Tensor:
        if len(tokens) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(segments, tokens, wanted)  # type: ignore[arg-type]

    async def run() -> None:
        want, _ = await answer(backend, request("Once", 60))
        monkeypatch.setattr(engine, "_forward", short_of_memory)
        beside = asyncio.create_task(answer(backend, request("Once", 60)))
        with pytest.raises(LLMPoolError, match="found no memory") as failed:
            await answer(backend, request("Remember this list: apples, pears, plums, cherries. " * 6))
        assert failed.value.code == "instance_unavailable"
        assert (await beside)[0] == want
        assert backend.stats() == (0, 0.0)

    asyncio.run(run())


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    yield data

"""One copy of the weights for several processes."""

import asyncio
import json
import multiprocessing
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig, answer, request

from llmpool_hf_cuda.backend import Backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.errors import LLMPoolError, StartError
from llmpool_hf_cuda.weights.channel import Server, receive

Make = Callable[[InstanceConfig], Backend]
PROMPT = "Once upon a time there was a fox"


def _weights(role: str, tmp_path: Path) -> dict[str, dict[str, str]]:
    return {"weights": {"role": role, "socket": str(tmp_path / "weights" / "0.sock")}}


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("name", ["tiny-llama", "smollm2-135m-instruct"])
def test_mapped_weights_give_the_same_answer(
    name: str, quantization: str, models: Path, config: MakeConfig, backends: Make, tmp_path: Path
) -> None:
    want, _ = asyncio.run(answer(backends(config(models / name, quantization)), request(PROMPT, 12)))
    backends(config(models / name, quantization, **_weights("own", tmp_path)))
    for _ in range(2):
        mapped = backends(config(models / name, quantization, **_weights("map", tmp_path)))
        assert asyncio.run(answer(mapped, request(PROMPT, 12)))[0] == want


def test_mapped_weights_are_the_owners_memory(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    owner = backends(config(tiny, **_weights("own", tmp_path)))
    mapped = [backends(config(tiny, **_weights("map", tmp_path))) for _ in range(2)]
    owner._arena.zero_()  # type: ignore[attr-defined]
    for one in mapped:
        model = one._engine._model
        assert all(float(parameter.abs().max()) == 0 for parameter in model.parameters())
        # Tied or not: no weight is anywhere else.
        blocks = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        assert len(blocks) == 1


def test_an_owner_computes_nothing(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    owner = backends(config(tiny, **_weights("own", tmp_path)))
    assert asyncio.run(owner.warmup("test")) == (0.0, 0.0)
    with pytest.raises(LLMPoolError, match="only holds weights"):
        asyncio.run(answer(owner, request(PROMPT)))
    assert (tmp_path / "weights" / "0.sock").stat().st_mode & 0o777 == 0o600
    asyncio.run(owner.close())
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.parametrize(("model", "quantization"), [("smollm2-135m-instruct", "none"), ("tiny-llama", "nf4")])
def test_weights_of_another_model_are_refused(
    model: str, quantization: str, models: Path, config: MakeConfig, backends: Make, tmp_path: Path
) -> None:
    backends(config(models / "tiny-llama", "none", **_weights("own", tmp_path)))
    with pytest.raises(StartError, match="another model or quantization") as failed:
        backends(config(models / model, quantization, **_weights("map", tmp_path)))
    assert failed.value.reason == "ConfigInvalid"


def test_an_owner_that_is_not_there_is_named(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"does not answer at .*0\.sock"):
        backends(config(tiny, **_weights("map", tmp_path)))


@pytest.mark.parametrize("said", [b"", b"\x00\x00", struct.pack(">I", 100) + b"{", struct.pack(">I", 2**31), struct.pack(">I", 3) + b"not"])
def test_what_is_no_message_is_an_error(said: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        async def run() -> None:
            asking = asyncio.create_task(asyncio.to_thread(receive, path))
            peer, _ = await asyncio.to_thread(listener.accept)
            with peer:
                peer.sendall(said)
            with pytest.raises((OSError, ValueError)):
                await asking

        asyncio.run(run())


def _child(path: Path, out: "multiprocessing.connection.Connection") -> None:
    body, descriptors = receive(path)
    block = torch.UntypedStorage._new_shared_fd_cpu(descriptors[0], body["size"])  # type: ignore[attr-defined]
    out.send_bytes(json.dumps([body["note"], list(bytes(block))]).encode())


def test_another_process_maps_what_is_shared(tmp_path: Path) -> None:
    tensor = torch.arange(8, dtype=torch.uint8)

    def message() -> tuple[dict[str, object], list[int]]:
        descriptor, size = tensor.untyped_storage()._share_fd_cpu_()
        return {"note": "é" * 200_000, "size": size}, [descriptor]

    server = Server(tmp_path / "s", message)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=_child, args=(tmp_path / "s", theirs))
    child.start()
    note, block = json.loads(ours.recv_bytes())
    child.join()
    server.close()
    assert (len(note), block) == (200_000, list(range(8)))

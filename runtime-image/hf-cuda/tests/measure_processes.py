"""
Memory and time to ready of whole processes, as a table: `python measure_processes.py MODEL_FOLDER [nf4|int8|none] [--instances 5]`.
One instance, several with weights of their own, several on shared weights, and an empty torch context for comparison. On a card the memory
is the card's; without one the processes' proportional set size, in which what is shared counts once.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

EMPTY = "import time, torch; torch.cuda.is_available() and torch.zeros(1, device='cuda'); print('here', flush=True); time.sleep(600)"
CARD = torch.cuda.is_available()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("quantization", nargs="?", default="nf4")
    parser.add_argument("--instances", type=int, default=5)
    parser.add_argument("--context", type=int, default=4096)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "token").write_text("t")
        none = _memory([])
        async with _process(["-c", EMPTY], {}) as empty:
            assert empty.stdout is not None
            await empty.stdout.readline()
            _row("an empty torch context", _memory([empty]) - none, None)
        many = [str(i) for i in range(given.instances)]
        await _measure(given, folder, "1 instance", ["0"], shared=False)
        await _measure(given, folder, f"{len(many)} instances", many, shared=False)
        await _measure(given, folder, f"{len(many)} instances and the owner of their weights", many, shared=True)


async def _measure(given: argparse.Namespace, folder: Path, what: str, ids: list[str], *, shared: bool) -> None:
    before = _memory([])
    weights = {"socket": str(folder / "shared" / "0.sock")}
    began = time.monotonic()
    async with (
        _instances(given, folder, ["owner"] if shared else [], {**weights, "role": "own"}) as owner,
        _instances(given, folder, ids, {**weights, "role": "map"} if shared else None) as instances,
    ):
        _row(what, _memory([*owner, *instances]) - before, time.monotonic() - began)


@asynccontextmanager
async def _instances(
    given: argparse.Namespace, folder: Path, ids: list[str], weights: dict[str, str] | None
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Started together; here when all are ready."""
    if not ids:
        yield []
        return
    async with _process(["-m", "llmpool_hf_cuda"], _config(given, folder, ids[0], weights)) as first:
        ready = asyncio.create_task(_ready(first))
        async with _instances(given, folder, ids[1:], weights) as rest:
            await ready
            yield [first, *rest]


def _config(given: argparse.Namespace, folder: Path, name: str, weights: dict[str, str] | None) -> dict[str, str]:
    config: dict[str, Any] = {
        "pool": "bench", "id": "0" if name == "owner" else name, "variant": "default", "backend": "hf-cuda", "host": "127.0.0.1", "port": 0,
        "metricsPort": 0, "tokenFile": str(folder / "token"), "cacheDir": str(folder), "stateDir": str(folder / name),
        "model": {"uri": f"file://{given.model}", "sha256": "", "quantization": given.quantization}, "contextTokens": given.context,
        "sessions": 1, "requestTimeoutSeconds": 600, "sessionTTLSeconds": 600, "warmupPrompt": "hello", "threads": 1, "stub": {},
        **({} if weights is None else {"weights": weights}),
    }  # fmt: skip
    return {"LLMPOOL_INSTANCE": json.dumps(config)}


@asynccontextmanager
async def _process(args: list[str], env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *args, env={**os.environ, **env}, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def _ready(process: asyncio.subprocess.Process) -> None:
    """It logs so; the rest of what it says is thrown away."""
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        if b'"msg": "ready: ' in line:
            return
        said = line
    raise RuntimeError(f"an instance ended: {said.decode()}")


def _memory(processes: list[asyncio.subprocess.Process]) -> float:
    """In GiB."""
    if CARD:
        free, total = torch.cuda.mem_get_info()
        return float(total - free) / 2**30
    return sum(_proportional(process.pid) for process in processes) / 2**20


def _proportional(pid: int) -> int:
    """In KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _row(name: str, gib: float, seconds: float | None) -> None:
    print(f"| {name} | {gib:.2f} GiB |{'' if seconds is None else f' ready after {seconds:.1f} s |'}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

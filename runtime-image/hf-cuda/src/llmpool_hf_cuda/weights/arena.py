"""All tensors of a model in one block of memory, which other processes map."""

import base64
from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.nn.modules import Int8Params, Params4bit
from torch import nn

ALIGNMENT = 256
"""In bytes, as the caching allocator aligns what it gives."""
STATISTICS = "#"
"""Between a quantised weight's name and that of one of its statistics. No module has it in its name."""

Pieces = dict[str, tuple[int, str, list[int]]]
"""Offset in bytes, dtype and shape by name."""


def tensors_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, and what quantised weights need beside their own bytes. Of a model that has not computed yet."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, Params4bit):
            yield name, parameter.data
            for key, value in parameter.quant_state.as_dict(packed=True).items():
                yield f"{name}{STATISTICS}{key}", value
        elif isinstance(parameter, Int8Params):
            yield name, parameter.data
            yield f"{name}{STATISTICS}SCB", parameter.SCB
        else:
            yield name, parameter.data
    yield from model.named_buffers(remove_duplicate=False)


def pack(model: nn.Module, device: torch.device) -> tuple[torch.Tensor, Pieces]:
    """A block that holds a copy of everything, tied weights once."""
    pieces: Pieces = {}
    placed: dict[tuple[int, str, tuple[int, ...]], int] = {}
    todo: list[tuple[int, torch.Tensor]] = []
    size = 0
    for name, tensor in tensors_of(model):
        dtype = str(tensor.dtype).removeprefix("torch.")
        same = (tensor.data_ptr(), dtype, tuple(tensor.shape))
        offset = placed.get(same)
        if offset is None or tensor.numel() == 0:
            offset = placed[same] = size
            todo.append((offset, tensor))
            size += -(-tensor.numel() * tensor.itemsize // ALIGNMENT) * ALIGNMENT
        pieces[name] = (offset, dtype, list(tensor.shape))
    arena = torch.empty(size, dtype=torch.uint8, device=device)
    for offset, tensor in todo:
        cut(arena, (offset, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))).copy_(tensor)
    return arena, pieces


def cut(arena: torch.Tensor, piece: tuple[int, str, list[int]]) -> torch.Tensor:
    """A view."""
    offset, name, shape = piece
    dtype: torch.dtype = getattr(torch, name)
    count = 1
    for length in shape:
        count *= length
    return arena[offset : offset + count * dtype.itemsize].view(dtype).view(shape)


def share(arena: torch.Tensor) -> tuple[dict[str, Any], list[int]]:
    """What another process needs to map the block: JSON, and a file descriptor where it is memory of the CPU. Anew for each process."""
    storage: Any = arena.untyped_storage()
    if arena.device.type == "cpu":
        descriptor, size = storage._share_fd_cpu_()
        return {"size": size}, [descriptor]
    # As torch.multiprocessing does it: CUDA IPC, with the use counted in a file of shared memory.
    _, *parts = storage._share_cuda_()
    return {"parts": [{"bytes": base64.b64encode(p).decode()} if isinstance(p, bytes) else p for p in parts]}, []


def opened(handle: dict[str, Any], descriptors: list[int], device: torch.device) -> torch.Tensor:
    """The block that another process has shared. Its memory stays as long as it is mapped here."""
    storages: Any = torch.UntypedStorage
    if device.type == "cpu":
        storage = storages._new_shared_fd_cpu(descriptors[0], handle["size"])
    else:
        parts = [base64.b64decode(p["bytes"]) if isinstance(p, dict) else p for p in handle["parts"]]
        torch.cuda.init()  # type: ignore[no-untyped-call]
        storage = storages._new_shared_cuda(device.index, *parts)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)

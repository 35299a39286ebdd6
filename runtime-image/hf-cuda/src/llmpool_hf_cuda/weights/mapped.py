"""A model on weights that another process holds."""

import os
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from ..engine.attention import NAME
from ..errors import StartError
from . import arena
from .arena import STATISTICS
from .channel import receive
from .owner import FORMAT, card_id


def mapped_model(socket: Path, folder: Path, key: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Blocks. Raises StartError. `key`: of the model that is wanted."""
    try:
        said, descriptors = receive(socket)
    except (OSError, ValueError) as error:
        words = f"the process that holds the weights does not answer at {socket}: {error}: it is started first, and this one again after it"
        raise StartError("ModelDownloadFailed", words) from error
    try:
        if (said["format"], said["key"]) != (FORMAT, key):
            raise StartError("ConfigInvalid", f"the weights at {socket} are of another model or quantization: give both processes the same")
        if said["card"] != card_id(device):
            raise StartError("ConfigInvalid", f"the weights at {socket} are on another card: processes of one card alone share them")
        block = arena.opened(said["handle"], descriptors, device)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    model = _skeleton(folder, dtype)
    tensors = {name: arena.cut(block, piece) for name, piece in said["pieces"].items()}
    for name, tensor in tensors.items():
        if STATISTICS not in name:
            _put(model, name, tensor, _statistics(tensors, name), dtype)
    _check_whole(model, folder)
    return model.eval()


def _skeleton(folder: Path, dtype: torch.dtype) -> nn.Module:
    options: dict[str, Any] = {"trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=NAME, **options)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    built: nn.Module = model
    return built


def _statistics(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    start = name + STATISTICS
    return {other.removeprefix(start): tensor for other, tensor in tensors.items() if other.startswith(start)}


def _put(model: nn.Module, name: str, tensor: torch.Tensor, statistics: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    elif not statistics:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        quantised = _quantised(module, tensor, statistics, dtype)
        model.set_submodule(path, quantised)


def _quantised(linear: nn.Module, tensor: torch.Tensor, statistics: dict[str, torch.Tensor], dtype: torch.dtype) -> nn.Module:
    """In place of a plain layer that is on no device yet."""
    assert isinstance(linear, nn.Linear)
    shape = (linear.in_features, linear.out_features, linear.bias is not None)
    new: Any
    with torch.device("meta"):
        if "SCB" in statistics:
            # The threshold is transformers' own.
            new = Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
        else:
            new = Linear4bit(*shape, compute_dtype=dtype, quant_type="nf4")  # type: ignore[no-untyped-call]
    if "SCB" in statistics:
        new.weight = Int8Params(tensor, requires_grad=False, has_fp16_weights=False, CB=tensor, SCB=statistics["SCB"])
    else:
        new.weight = Params4bit.from_prequantized(tensor, statistics, device=tensor.device, module=new)
    if new.bias is not None:
        new.bias = linear.bias
    layer: nn.Module = new
    return layer


def _check_whole(model: nn.Module, folder: Path) -> None:
    """A model that keeps tensors elsewhere, which nobody shares, would compute nonsense."""
    for path, module in model.named_modules():
        tensors = {**module._parameters, **module._buffers, **vars(module)}
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                words = f"the model in {folder} keeps {path}.{name} where it cannot be shared: leave weights out"
                raise StartError("ModelInvalid", words)

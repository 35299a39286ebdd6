"""Loads tokenizer and weights, quantised as asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ..engine.attention import NAME
from ..engine.cells import CellShape
from ..errors import StartError
from .folder import ModelFolder


@dataclass(frozen=True)
class LoadedModel:
    model: Any
    tokenizer: Any
    shape: CellShape
    dtype: torch.dtype
    device: torch.device
    device_name: str
    end_tokens: frozenset[int]
    vocabulary: int
    """Width of the logits; the tokenizer may have fewer."""


def pick_device(instance_id: str) -> tuple[torch.device, str]:
    """Where this process sees several cards, instances take them in turns."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), "CPU"
    card = card_of(instance_id, torch.cuda.device_count())
    torch.cuda.set_device(card)
    return torch.device("cuda", card), torch.cuda.get_device_name(card)


def card_of(instance_id: str, cards: int) -> int:
    """`instance_id`: `0` or `code-0`."""
    return int(instance_id.rpartition("-")[2]) % cards


def load_model(folder: ModelFolder, quantization: str, context_tokens: int, instance_id: str, weights: Path | None = None) -> LoadedModel:
    """`weights`: the socket of the process that holds them. Blocks for as long as the weights take. Raises StartError."""
    config = _config(folder, context_tokens)
    device, name = pick_device(instance_id)
    dtype = _dtype(config, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
        if weights is None:
            model = _whole_model(folder, quantization, dtype, device)
        else:
            from ..weights.mapped import mapped_model

            model = mapped_model(weights, folder.path, model_key(folder.fingerprint, quantization, dtype), dtype, device)
    except StartError:
        raise
    except torch.OutOfMemoryError as error:
        raise StartError("OutOfMemory", f"the weights do not fit on {name}: {error}: use nf4, or a smaller model") from error
    except Exception as error:  # every library under this raises its own
        raise StartError("ModelInvalid", f"the model in {folder.path} does not load: {error}") from error
    text = model.config.get_text_config()
    heads = text.num_key_value_heads or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        shape=CellShape(text.num_hidden_layers, heads, width),
        dtype=dtype,
        device=device,
        device_name=name,
        end_tokens=_end_tokens(model, tokenizer),
        vocabulary=int(model.get_output_embeddings().weight.shape[0]),
    )


def model_key(fingerprint: str, quantization: str, dtype: torch.dtype) -> str:
    """What weights and saved caches must agree in."""
    return f"{fingerprint}:{quantization or 'nf4'}:{dtype}"


def _whole_model(folder: ModelFolder, quantization: str, dtype: torch.dtype, device: torch.device) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder.path,
        dtype=dtype,
        device_map={"": device},
        attn_implementation=NAME,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **_quantization(quantization, dtype),
    ).eval()


def _config(folder: ModelFolder, context_tokens: int) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True).get_text_config()
    except Exception as error:  # every library under this raises its own
        raise StartError("ModelInvalid", f"transformers does not know the model in {folder.path}: {error}") from error
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    unknown = layers - {"full_attention", "sliding_attention"}
    if unknown:
        raise StartError(
            "ModelInvalid", f"the model in {folder.path} has {min(unknown)} layers: only attention over all or the latest tokens is served"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        raise StartError(
            "ModelInvalid",
            f"the model in {folder.path} has {rope['rope_type']} positions, which depend on the longest session beside: it is not served",
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and context_tokens > longest:
        raise StartError("ConfigInvalid", f"contextTokens {context_tokens} is more than the model was trained for: at most {longest}")
    return config


def _dtype(config: Any, device: torch.device) -> torch.dtype:
    """What the weights were written in; on a card bfloat16 where it has it, else float16."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16


def _quantization(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    if quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if quantization == "none":
        return {}
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True)
    return {"quantization_config": nf4}


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """What `generate` stops at."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset(ends if isinstance(ends, list) else [ends])

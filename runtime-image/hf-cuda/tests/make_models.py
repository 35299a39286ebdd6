"""Makes the models of the tests in a folder: `python make_models.py FOLDER [GGUF | --8b]`. What is there already stays."""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "Once upon a time there was a fox who lived by a river. One day the fox met a crow.",
    '{"name": "weather", "arguments": {"city": "Paris", "days": 3}, "ok": true, "level": "low", "steps": [1, 2]}',
    "user assistant system tool You are a helpful model. Remember this list: apples, pears, plums, cherries.",
]


def tiny(folder: Path) -> None:
    """A random Llama of two layers: says nothing of sense, and always the same. Wide weights, so that no two logits are nearly equal."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def eight(folder: Path, tokenizer: Path) -> None:
    """Random weights of the shape of Llama-3.1-8B, 16 GB, made on the card: for speed alone."""
    torch.set_default_device("cuda")
    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        eos_token_id=2,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def smol(folder: Path, gguf: Path) -> None:
    """SmolLM2-135M-Instruct from its GGUF file, as bfloat16 safetensors."""
    quantization = GgufConfig(dequantize=True)
    where = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, **where, dtype=torch.bfloat16, quantization_config=quantization)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)


def made(folder: Path, make: "object", *args: Path) -> None:
    """Whole under its own name, or not there."""
    if (folder / "config.json").exists():
        return
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
    try:
        make(draft, *args)  # type: ignore[operator]
        json.loads((draft / "config.json").read_text())
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    made(root / "tiny-llama", tiny)
    if sys.argv[2:] == ["--8b"]:
        made(root / "llama-8b-shape", eight, root / "tiny-llama")
    elif len(sys.argv) > 2:
        made(root / "smollm2-135m-instruct", smol, Path(sys.argv[2]))

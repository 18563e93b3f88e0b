"""Tiny stitched models: a random CLIP's image tower and a random Llama, each in a folder of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from dual_encoders import TINY, write_clip
from tiny_models import LANGUAGE, tokenizer_of

from kit.models.load_vision_language import load_vision_language
from kit.models.vision_language import VisionLanguage

# SmolLM2's own.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAYERS = 4


@cache
def smol_tokenizer() -> Any:
    """Return a tokenizer with SmolLM2's special tokens and chat template."""
    tokenizer = tokenizer_of(
        "<file_sep>",
        bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>",
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    return tokenizer


def write_language(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Save a tiny random Llama with its tokenizer, and return the folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = smol_tokenizer()
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    values = {**LANGUAGE, "num_hidden_layers": LAYERS, "vocab_size": len(tokenizer), "tie_word_embeddings": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**values, **ids, **settings}))
        for parameter in model.parameters():  # or all that a random model says is near zero
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model's folder."""
    return write_language(tmp_path_factory.mktemp("language") / "llama")


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP's folder, in open_clip's layout; its image tower has 4 by 4 patches."""
    return write_clip(tmp_path_factory.mktemp("vision") / "clip", TINY)


def tiny_stitch(vision: Path, language: Path, **options: Any) -> VisionLanguage:
    """Return both stitched together, fresh."""
    return load_vision_language(f"stitch:local-dir:{vision}+local-dir:{language}", device="cpu", **options)

"""Tiny vision-language models with random weights: the real classes, a tokenizer trained here, the real chat templates.

Each is saved to a folder as its big sister lies on the Hub, so that ``local-dir:`` runs the code that ``hf:`` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import GEMMA, IDEFICS, LLAVA, QWEN, QWEN_SYSTEM, tokenizer_of

from kit.models.hub_vision_language import load_hub
from kit.models.vision_language import VisionLanguage
from kit.parts.reference import parse

LANGUAGE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Tiny:
    """One architecture.

    Args:
        build: Returns model and processor.
        image_tokens: Image tokens of a picture of 32 x 32 pixels.
        targets: What LoRA goes on.
    """

    build: Callable[[], tuple[Any, Any]]
    image_tokens: int
    targets: tuple[str, ...] = ("q_proj", "v_proj")


def _ids(tokenizer: Any, **names: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _language(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {**LANGUAGE, **ids, "vocab_size": len(tokenizer), **more}


def smolvlm() -> tuple[Any, Any]:
    """Return a tiny SmolVLM; pictures above 32 pixels are split into tiles."""
    import transformers as hf

    tokenizer = tokenizer_of(
        "<fake_token_around_image>", "<image>", "<global-img>", *_tiles(),
        bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>", unk_token="<|endoftext|>",
    )  # fmt: skip
    pictures = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(**pictures), tokenizer, hf.SmolVLMVideoProcessor(**pictures),
        image_seq_len=4, chat_template=IDEFICS.replace("START", "<|im_start|>"),
    )  # fmt: skip
    config = hf.SmolVLMConfig(
        text_config={"model_type": "llama", **_language(tokenizer)}, vision_config=VISION, scale_factor=2,
        **_ids(tokenizer, image_token_id="<image>"),
    )  # fmt: skip
    return hf.SmolVLMForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    """Return a tiny Idefics3, whose processor adds its tokens to the tokenizer by itself."""
    import transformers as hf

    tokenizer = tokenizer_of(
        "<global-img>", *_tiles(), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", pad_token="<|pad|>"
    )
    pictures = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    template = IDEFICS.replace("START", "<|begin_of_text|>")
    processor = hf.Idefics3Processor(
        hf.Idefics3ImageProcessor(**pictures), tokenizer, image_seq_len=4, chat_template=template
    )
    config = hf.Idefics3Config(
        text_config={"model_type": "llama", **_language(tokenizer)}, vision_config=VISION, scale_factor=2,
        **_ids(tokenizer, image_token_id="<image>"),
    )  # fmt: skip
    model = hf.Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<end_of_utterance>", "<|end_of_text|>"])
    return model, processor


def _tiles() -> list[str]:
    return [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


def _qwen(template: str, *, patch_size: int) -> tuple[Any, Any, dict[str, Any]]:
    import transformers as hf

    tokenizer = tokenizer_of(
        "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        eos_token="<|im_end|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    sizes = {"patch_size": patch_size, "merge_size": 2, "temporal_patch_size": 2}
    pictures = hf.Qwen2VLImageProcessor(**sizes, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64})
    ids = _ids(
        tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>",
    )  # fmt: skip
    ids["text_config"] = _language(tokenizer, rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]})
    return tokenizer, pictures, {"template": template, "ids": ids, "sizes": sizes}


def qwen2_5_vl() -> tuple[Any, Any]:
    """Return a tiny Qwen2.5-VL."""
    import transformers as hf

    tokenizer, pictures, rest = _qwen(QWEN.replace("SYSTEM", QWEN_SYSTEM), patch_size=4)
    video = hf.Qwen2VLVideoProcessor(**rest["sizes"])
    processor = hf.Qwen2_5_VLProcessor(pictures, tokenizer, video, chat_template=rest["template"])
    config = hf.Qwen2_5_VLConfig(
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
                       "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
                       "out_hidden_size": 64},
        **rest["ids"],
    )  # fmt: skip
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    """Return a tiny Qwen3-VL, whose pictures also enter at later layers (deepstack)."""
    import transformers as hf

    tokenizer, pictures, rest = _qwen(QWEN.replace("SYSTEM", ""), patch_size=4)
    video = hf.Qwen3VLVideoProcessor(**rest["sizes"])
    processor = hf.Qwen3VLProcessor(pictures, tokenizer, video, chat_template=rest["template"])
    config = hf.Qwen3VLConfig(
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
                       "spatial_merge_size": 2, "out_hidden_size": 64, "num_position_embeddings": 64,
                       "deepstack_visual_indexes": [0]},
        **rest["ids"],
    )  # fmt: skip
    return hf.Qwen3VLForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    """Return a tiny LLaVA-1.5; its chat template ends no answer."""
    import transformers as hf

    tokenizer = tokenizer_of(
        "<image>", bytes_=False, begins=True, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = hf.LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA,
    )  # fmt: skip
    config = hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "projection_dim": 32},
        text_config={"model_type": "llama", **_language(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return hf.LlavaForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, Any]:
    """Return a tiny PaliGemma: no chat template, a prompt that is read in both directions."""
    import transformers as hf

    tokenizer = tokenizer_of(
        "<image>", bytes_=False, begins=True, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    pictures = hf.SiglipImageProcessor(size={"height": 32, "width": 32}, image_seq_length=16)
    processor = hf.PaliGemmaProcessor(pictures, tokenizer)
    config = hf.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={"model_type": "gemma", **_language(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        hidden_size=64,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    """Return a tiny Gemma 3: sliding windows, and another token before expansion than after it."""
    import transformers as hf

    tokenizer = tokenizer_of(
        "<start_of_turn>", "<end_of_turn>", bytes_=False, begins=True,
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
                              "eoi_token": "<end_of_image>"},
    )  # fmt: skip
    pictures = hf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = hf.Gemma3Processor(pictures, tokenizer, image_seq_length=4, chat_template=GEMMA)
    config = hf.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config=_language(
            tokenizer, sliding_window=32, query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"]
        ),
        mm_tokens_per_image=4,
        **_ids(tokenizer, image_token_index="<image_soft_token>", boi_token_index="<start_of_image>",
               eoi_token_index="<end_of_image>"),
    )  # fmt: skip
    model = hf.Gemma3ForConditionalGeneration(config)
    # It starts at zero, and a fresh model would be blind.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    return model, processor


TINY: dict[str, Tiny] = {
    "smolvlm": Tiny(smolvlm, 20),
    "idefics3": Tiny(idefics3, 20),
    "qwen2_5_vl": Tiny(qwen2_5_vl, 16),
    "qwen3_vl": Tiny(qwen3_vl, 16),
    "llava": Tiny(llava, 16),
    "paligemma": Tiny(paligemma, 16),
    "gemma3": Tiny(gemma3, 4),
}


def save_tiny(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Save the tiny model of an architecture as the Hub would lay it out, and return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = TINY[name].build()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an architecture's tiny model, made at first use."""
    root = tmp_path_factory.mktemp("tiny-models")
    return cache(lambda name: save_tiny(name, root / name))


@pytest.fixture(scope="session", params=sorted(TINY))
def tiny_model(request: pytest.FixtureRequest, tiny_folders: Callable[[str], Path]) -> VisionLanguage:
    """Each architecture's tiny model in turn, as kit loads it; not to be changed."""
    return load_tiny(tiny_folders(request.param))


def load_tiny(folder: Path, **options: Any) -> VisionLanguage:
    """Return the model in a folder, as kit loads it."""
    return load_hub(parse(f"local-dir:{folder}", kind="model"), **options)

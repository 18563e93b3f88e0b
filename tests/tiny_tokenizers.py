"""Tokenizers trained here, and the chat templates that real models have, for tiny ones."""

from __future__ import annotations

import copy
import string
from functools import cache
from typing import Any

SENTENCES = [
    "What colour is the shape? red blue green yellow brown grey black teal",
    "Is there a triangle in the picture? Does it show a circle or a rectangle? yes no",
    "Describe the picture in a few words. A smiling face with hearts. You are a helpful assistant.",
    "User: Assistant: USER: ASSISTANT: system user assistant model row col global",
    string.printable,
]
# As on the Hub: HuggingFaceTB/SmolVLM-256M-Instruct, HuggingFaceM4/Idefics3-8B-Llama3, Qwen/Qwen2.5-VL-3B-Instruct,
# Qwen/Qwen3-VL-2B-Instruct (both without tools), llava-hf/llava-1.5-7b-hf, google/gemma-3-4b-it (system left out).
IDEFICS = (
    "START{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == "
    "'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{%- for message in messages -%}{%- set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] -%}{{ '<start_of_turn>' + role + '\n' }}{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}"
    "{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}"
)


@cache
def trained(*, bytes_: bool) -> Any:
    """Return a small BPE tokenizer: byte-level as GPT-2, Qwen and SmolLM have it, or on "▁" as Llama and Gemma."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if bytes_:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # as SentencePiece's pieces are
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        alphabet = [*string.printable, "▁"]
    special = [] if bytes_ else ["<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return tokenizer


def tokenizer_of(*special: str, bytes_: bool = True, begins: bool = False, **named: Any) -> Any:
    """Return the tokenizer with a model's own tokens; ``named`` are its bos, eos, pad and extra tokens.

    Args:
        special: Tokens that are never split.
        bytes_: Byte-level, or on "▁".
        begins: Put the beginning-of-sequence token before every text, as Llama's does.
        named: As PreTrainedTokenizerFast takes them.
    """
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = copy.deepcopy(trained(bytes_=bytes_))
    plain = [token for name, token in named.items() if name.endswith("_token")]
    extra = named.get("extra_special_tokens", {})
    core.add_special_tokens([AddedToken(token, special=True) for token in [*plain, *special, *extra.values()]])
    if begins:
        bos = named["bos_token"]
        core.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, **named)

"""Second moments of what a language tower's matrices read, on text and pictures: what rounding is calibrated by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kit.data.prose import Passage, load_prose
from kit.data.rows import Conversation, Question
from kit.data.sources import load_rows
from kit.errors import DataError, KitError
from kit.models.chat import Chat
from kit.models.halves import trunk
from kit.models.turns import as_conversation
from kit.models.vision_language import VisionLanguage

# By layer and kind of matrix ("qkv", "o", "gate_up", "down"), shape (in, in).
Moments = Mapping[tuple[int, str], Tensor]
NONE: Moments = MappingProxyType({})
Sample = Passage | Conversation | Question

_READ = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj", "gate_up": "mlp.gate_proj", "down": "mlp.down_proj"}
_TOKENS = 256  # of a passage
_PASSAGES, _ROWS = 16, 48


def moments(model: VisionLanguage, samples: Sequence[Sample]) -> Moments:
    """Return the mean of x xᵀ over everything that each matrix of the language tower's layers reads.

    Args:
        model: A merged model in float32.
        samples: Plain text, and rows with their pictures. Not those that the copy is going to be measured on.

    Raises:
        DataError: no samples.
    """
    if not samples:
        raise DataError.of("calibration", "there are no samples", "give passages or rows, or do not calibrate")
    chat, tokenizer = Chat.of(model), model.processor.tokenizer
    with torch.no_grad(), _watched(model.language) as (sums, counts):
        for sample in samples:
            if isinstance(sample, Passage):
                _read_text(model.language, tokenizer, sample)
                continue
            inputs = chat.encode(as_conversation(sample))
            inputs.pop("labels")
            model.model.eval()(**{name: one.to(model.device) for name, one in inputs.items()})
    return {key: one / counts[key] for key, one in sums.items()}


def text_moments(language: Any, tokenizer: Any, passages: Sequence[Passage]) -> Moments:
    """Return what ``moments`` returns for a language model by itself, on text alone."""
    with torch.no_grad(), _watched(language) as (sums, counts):
        for passage in passages:
            _read_text(language, tokenizer, passage)
    return {key: one / counts[key] for key, one in sums.items()}


def usual_samples(sources: Sequence[str]) -> list[Sample]:
    """Return what rounding is calibrated on where nothing is given: plain English, and rows that were trained on.

    Args:
        sources: Where a bundle's rows came from. Those that cannot be had now are left out.
    """
    found: list[Sample] = list(load_prose(limit=_PASSAGES, seed=1))
    for source in sources:
        for kind in ("questions", "conversations"):
            try:
                rows: Any = load_rows(source, split="train", kind=kind)
            except KitError:
                continue
            found += list(rows.limit(_ROWS, seed=1))
            break
    return found


def _read_text(language: Any, tokenizer: Any, passage: Passage) -> None:
    ids = tokenizer(passage.text)["input_ids"][:_TOKENS]
    language.eval()(input_ids=torch.tensor([ids], device=next(language.parameters()).device))


@contextmanager
def _watched(language: Any) -> Iterator[tuple[dict[tuple[int, str], Any], dict[tuple[int, str], int]]]:
    sums: dict[tuple[int, str], Any] = {}
    counts: dict[tuple[int, str], int] = {}

    def watch(key: tuple[int, str]) -> Any:
        def add(_: Any, inputs: tuple[Tensor, ...]) -> None:
            read = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float().cpu()
            sums[key] = sums.get(key, 0) + read.T @ read
            counts[key] = counts.get(key, 0) + len(read)

        return add

    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(watch((number, kind)))
        for number, layer in enumerate(trunk(language).layers)
        for kind, path in _READ.items()
    ]
    try:
        yield sums, counts
    finally:
        for hook in hooks:
            hook.remove()

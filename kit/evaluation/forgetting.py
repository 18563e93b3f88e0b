"""What a language model forgot: its loss on plain text, next to that of the base before anything was put on it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kit.data.prose import Passage
from kit.errors import DataError, Fault, ModelError
from kit.intervals import bootstrap
from kit.models.halves import upper
from kit.models.prompts import PromptedAttention
from kit.models.text_states import kept_states
from kit.progress import track
from kit.result import Measurement

_ROWS = 128  # positions whose log-probabilities are made at a time: 25 MB for a vocabulary of 49,152
_Read = Callable[[int, Tensor], Tensor]  # a window's number and token ids to its logits, shape (t, vocabulary)


@dataclass(frozen=True)
class TextLoss:
    """What a model lost on each token of some text.

    Args:
        nats: Minus the natural logarithm of each scored token's probability, shape (n,).
        documents: Each token's document, shape (n,).
        scored: SHA-256 of the token ids and the windows; equal ones can be compared token by token.
        method: How it was measured, in words.
        adapters: Layers that somebody put on the model; empty for a plain one.
    """

    nats: NDArray[np.float64]
    documents: tuple[str, ...]
    scored: str
    method: str
    adapters: tuple[str, ...]

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss per token."""
        return math.exp(float(self.nats.mean()))

    @property
    def bits(self) -> float:
        """The mean loss per token in bits."""
        return _bits(float(self.nats.mean()))


def text_loss(
    model: Any,
    tokenizer: Any,
    passages: Sequence[Passage],
    *,
    context: int = 512,
    stride: int = 256,
    cut: int | None = None,
) -> TextLoss:
    """Return a causal language model's loss on text, every token but a passage's first scored once.

    A passage longer than ``context`` is read in windows that begin ``stride`` tokens apart; a window scores what the
    one before did not, so each token has at least ``context - stride`` tokens before it, or all that there are.

    Args:
        model: ``model(input_ids=…, attention_mask=…).logits``, shape (1, t, vocabulary): a language model, or a
            vision-language one, which is shown no picture.
        tokenizer: Its tokenizer; special tokens that it puts before a text are read, and count as the first.
        passages: Passages of ``kit.data.prose.load_prose``.
        context: Tokens in a window, at least 2, at most what the model reads.
        stride: Tokens between the beginnings of two windows, 1 <= stride < context.
        cut: The first layer that is trained, if any is: what is below reads each window once, and keeps what it made
            of it for the next model that has it too. None for all layers each time.

    Raises:
        DataError: no token that could be scored, or a window out of range; all faults at once.
        ModelError: an adapter below the cut.

    Source:
        Jelinek et al. (1977), doi:10.1121/1.2016299, for perplexity; https://huggingface.co/docs/transformers/perplexity
        for the windows.
    """
    _check(model, passages, context, stride)
    device = next(model.parameters()).device
    identity = hashlib.sha256(f"{context} {stride}".encode())
    found: list[tuple[Tensor, int]] = []  # a window's token ids, and how many of the last are scored
    documents: list[str] = []
    for passage in passages:
        ids = tokenizer(passage.text, return_tensors="pt")["input_ids"].to(device)
        identity.update(f"\n{passage.document} {ids.tolist()}".encode())
        for begin, first, end in windows(ids.shape[1], context=context, stride=stride):
            found.append((ids[:, begin:end], end - first))
            documents += [passage.document] * (end - first)
    if not documents:
        raise DataError(Fault("text_loss", "no passage has two tokens", "give longer text"))
    with torch.inference_mode(), _evaluating(model), track(total=len(found), label="reading text") as bar:
        read = _whole(model) if cut is None else _above(model, cut, [ids[0].tolist() for ids, _ in found])
        losses = []
        for number, (ids, scored) in enumerate(found):
            losses.append(_window(read(number, ids), ids, scored))
            bar.update()
    method = f"windows of {context} tokens, stride {stride}, first token not scored"
    return TextLoss(np.concatenate(losses), tuple(documents), identity.hexdigest(), method, adapters(model))


def windows(tokens: int, *, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, first scored, end) of each window over so many tokens.

    >>> list(windows(10, context=6, stride=3))
    [(0, 1, 6), (3, 6, 9), (6, 9, 10)]
    """
    first = 1  # the very first token has nothing before it
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        if first < end:
            yield begin, first, end
        first = end
        if end == tokens:
            return


def _whole(model: nn.Module) -> _Read:
    def read(_: int, ids: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        return logits

    return read


def _above(model: Any, cut: int, texts: Sequence[Sequence[int]]) -> _Read:
    """Return what reads windows from the cut on."""
    kept, half, head = kept_states(model, cut, texts), upper(model, cut), model.get_output_embeddings()

    def read(number: int, ids: Tensor) -> Tensor:
        hidden = kept[number][None].to(ids.device, head.weight.dtype)
        logits: Tensor = head(half(hidden, torch.ones_like(ids, dtype=torch.bool)))[0]
        return logits

    return read


def _window(logits: Tensor, ids: Tensor, scored: int) -> NDArray[np.float64]:
    """Return the loss of a window's last ``scored`` tokens: position t's logits speak of token t + 1."""
    logits, wanted = logits[-scored - 1 : -1], ids[0, -scored:]
    parts = [
        F.cross_entropy(some.float(), tokens, reduction="none")
        for some, tokens in zip(logits.split(_ROWS), wanted.split(_ROWS), strict=True)
    ]
    return torch.cat(parts).double().cpu().numpy()


def _check(model: Any, passages: Sequence[Passage], context: int, stride: int) -> None:
    faults = [] if passages else [Fault("text_loss", "there are no passages")]
    if not 1 <= stride < context:
        what = f"a window of {context} tokens every {stride} leaves tokens without context"
        faults.append(Fault("text_loss", what, "choose 1 <= stride < context"))
    config = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(text, "max_position_embeddings", None) or context
    if context > most:
        faults.append(Fault("text_loss", f"context {context} is more than the {most} tokens that the model reads"))
    if faults:
        raise DataError(faults)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, module by module: frozen ones may be in it already."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def adapters(model: nn.Module) -> tuple[str, ...]:
    """Return the names of layers that PEFT or kit put on a model, switched off or not.

    PEFT changes the model that it is given, so a base that was wrapped in between is no plain base any more.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, PromptedAttention) or type(module).__module__.startswith("peft.tuners.")
    )


def forgetting(base: TextLoss, adapted: TextLoss, *, split: str = "prose") -> dict[str, Measurement]:
    """Return both perplexities, their ratio, and the bits per token that the adapted model lost.

    Measure the base before anything is put on it: ``text_loss`` right after loading, then train, then again. A
    wrapped base, even with its adapters switched off, is refused; one whose adapter was merged cannot be told.

    Args:
        base: The plain base's loss.
        adapted: The adapted model's loss on the same text.
        split: What the text is called.

    Returns:
        ``base_perplexity``, ``adapted_perplexity``, ``perplexity_ratio`` (baseline 1; 1.1 is a tenth worse) and
        ``forgotten_bits`` (per token, baseline 0). Intervals are over documents, paired in the last two.

    Raises:
        ModelError: the base was measured with adapters on it.
        DataError: the two did not score the same tokens.
    """
    if base.adapters:
        what = f"was measured with {len(base.adapters)} adapter layers on it, the first of them {base.adapters[0]!r}"
        fix = "measure it right after loading, before an adapter is put on; PEFT changes the model that it wraps"
        raise ModelError(Fault("forgetting: base", what, fix))
    if base.scored != adapted.scored:
        what = "base and adapted model did not score the same tokens"
        raise DataError(Fault("forgetting", what, "use one tokenizer, the same passages and the same windows"))
    lost = adapted.nats - base.nats
    rows = (
        ("base_perplexity", "perplexity", base.nats, math.exp, None),
        ("adapted_perplexity", "perplexity", adapted.nats, math.exp, None),
        ("perplexity_ratio", "x", lost, math.exp, 1.0),
        ("forgotten_bits", "bits/token", lost, _bits, 0.0),
    )
    method = f"{base.method}; {len(set(base.documents))} documents"
    found = {}
    for name, unit, nats, scale, baseline in rows:
        # Each is a mean of losses, put on another scale that keeps the order: so are its interval's ends.
        interval = bootstrap(nats, clusters=base.documents)
        found[name] = Measurement(
            scale(float(nats.mean())), unit, len(nats), scale(interval.low), scale(interval.high),
            method=f"{method}; {interval.method}", baseline=baseline, split=split, better="lower",
        )  # fmt: skip
    return found


def perplexity_ratio(before: TextLoss, after: TextLoss, *, split: str = "prose") -> Measurement:
    """Return by how much a step multiplied perplexity: a child's over its parent's, both with adapters on or not.

    Args:
        before: The parent's loss.
        after: The child's loss on the same text.
        split: What the text is called.

    Raises:
        DataError: the two did not score the same tokens.
    """
    if before.scored != after.scored:
        what = "parent and child did not score the same tokens"
        raise DataError(Fault("perplexity_ratio", what, "use one tokenizer, the same passages and the same windows"))
    lost = after.nats - before.nats
    interval = bootstrap(lost, clusters=before.documents)
    method = f"{before.method}; {len(set(before.documents))} documents; {interval.method}"
    return Measurement(
        math.exp(float(lost.mean())), "x", len(lost), math.exp(interval.low), math.exp(interval.high),
        method=method, baseline=1.0, split=split, better="lower",
    )  # fmt: skip


def _bits(nats: float) -> float:
    return nats / math.log(2)

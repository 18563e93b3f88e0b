"""A tower as a run of blocks: what is computed from one of them on, with the tower's own modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kit.models.cut import image_features, text_features

GROUPS = 4  # of texts of like length


class _Entered(Exception):  # noqa: N818 - it ends a forward pass, and nothing went wrong
    """The activations that were waited for."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Blocks(NamedTuple):
    """A tower's blocks.

    Args:
        units: The blocks, lowest first; none for a tower that nobody knows how to cut, whose whole is above them.
        above: From a block's number, at most how many there are, to what is computed from there: a module that
            takes the activations that enter that block, and the texts' tokens on the text side, and returns the
            tower's output below its projection.
    """

    units: list[nn.Module]
    above: Callable[[int], nn.Module]

    def entering(self, number: int, given: Tensor, run: Callable[[Tensor], object]) -> Tensor:
        """Return what enters a block; what lies above it is not computed.

        Args:
            number: Which block; how many there are for what leaves the last.
            given: What the tower is given.
            run: Runs the tower on it.
        """
        if not self.units:
            return given

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            raise _Entered(inputs[0])

        def after(_module: nn.Module, _inputs: object, output: Any) -> None:
            raise _Entered(output[0] if isinstance(output, tuple) else output)

        if number == len(self.units):
            handle = self.units[-1].register_forward_hook(after)
        else:
            handle = self.units[number].register_forward_pre_hook(before)
        try:
            run(given)
        except _Entered as found:
            return found.hidden
        finally:
            handle.remove()
        raise RuntimeError("the tower does not run its blocks")


def image_blocks(visual: Any, trunk: Any) -> Blocks:
    """Return an image tower's blocks.

    Args:
        visual: open_clip's image tower.
        trunk: timm's network in it, or its quick copy; None for open_clip's own towers.
    """
    if trunk is None and hasattr(getattr(visual, "transformer", None), "resblocks"):
        return _vision_transformer(visual)
    name = next((one for one in ("blocks", "stages") if isinstance(getattr(trunk, one, None), nn.Sequential)), None)
    return whole_image(visual) if name is None else _timm(trunk, name)


def text_blocks(clip: Any) -> Blocks:
    """Return the blocks of a CLIP's text tower."""
    text = getattr(clip, "text", clip)
    if hasattr(text.transformer, "resblocks"):
        return _own_text(text)
    layers = getattr(getattr(text.transformer, "encoder", None), "layer", None)
    known = isinstance(layers, nn.ModuleList) and hasattr(text.transformer, "embeddings")
    return _bert(text) if known else whole_text(clip)


def whole_image(visual: nn.Module) -> Blocks:
    """Return an image tower that is not cut."""
    return Blocks([], lambda _: _WholeImage(visual))


def whole_text(clip: nn.Module) -> Blocks:
    """Return a text tower that is not cut."""
    return Blocks([], lambda _: _WholeText(clip))


def fits(blocks: Blocks, given: Tensor, run: Callable[[Tensor], Tensor], *more: Tensor) -> bool:
    """Return whether both parts of a tower together are the tower: architectures may do more than run their blocks.

    Args:
        blocks: Its blocks.
        given: Something to try it on.
        run: The tower.
        more: What the upper part takes beside activations.
    """
    if not blocks.units:
        return True
    number = len(blocks.units) // 2
    try:
        with torch.no_grad():
            whole = run(given)
            found = blocks.above(number)(blocks.entering(number, given, run), *more)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    close = partial(torch.allclose, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
    return found.shape == whole.shape and close(found, whole)


def text_modules(clip: Any) -> list[nn.Module]:
    """Return the modules of a CLIP's text tower, which open_clip's own models hold beside the image tower."""
    return [clip.text] if hasattr(clip, "text") else [clip.token_embedding, clip.transformer, clip.ln_final]


def _timm(trunk: Any, name: str) -> Blocks:
    stages = list(getattr(trunk, name))
    plain = all(isinstance(stage, nn.Sequential) for stage in stages)  # no more than runs of blocks
    units = [block for stage in stages for block in stage] if plain else stages

    def above(number: int) -> nn.Module:
        half = _copy(trunk)
        for below in list(half._modules)[: list(half._modules).index(name)]:
            half._modules[below] = nn.Identity()
        half._modules[name] = nn.Sequential(*units[number:])
        half._pos_embed = _through
        return _Features(half)

    return Blocks(units, above)


def _vision_transformer(visual: Any) -> Blocks:
    units = list(visual.transformer.resblocks)

    def above(number: int) -> nn.Module:
        half = _copy(visual)
        half._modules |= {name: nn.Identity() for name in ("conv1", "patch_dropout", "ln_pre")}
        half.transformer = _upper(visual.transformer, "resblocks", units[number:])
        half._embeds, half.proj = _through, None
        return _Features(half)

    return Blocks(units, above)


def _own_text(text: Any) -> Blocks:
    units = list(text.transformer.resblocks)
    return Blocks(units, lambda number: _OwnText(text, _upper(text.transformer, "resblocks", units[number:])))


def _bert(text: Any) -> Blocks:
    units = list(text.transformer.encoder.layer)

    def above(number: int) -> nn.Module:
        half = _copy(text.transformer)
        half.embeddings, half.encoder = _Given(), _upper(text.transformer.encoder, "layer", units[number:])
        return _Bert(half, text.pooler, text.config.pad_token_id)

    return Blocks(units, above)


def _upper(run: nn.Module, name: str, units: list[nn.Module]) -> nn.Module:
    half = _copy(run)
    half._modules[name] = nn.ModuleList(units)
    return half


def _copy(module: Any) -> Any:
    """Return a module of its own that shares everything below it, but for bare parameters: they belong to the input."""
    half = copy.copy(module)
    half._modules, half._parameters = dict(module._modules), {}
    return half


def _through(hidden: Tensor) -> Tensor:
    return hidden


class _Given(nn.Module):
    """Stands where embeddings are made, and returns what came instead of token ids."""

    def forward(self, inputs_embeds: Tensor, **_: object) -> Tensor:
        return inputs_embeds


class _WholeImage(nn.Module):
    """An image tower from its pixels on."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: Tensor) -> Tensor:
        return image_features(self.visual, getattr(self.visual, "trunk", None), pixels)


class _WholeText(nn.Module):
    """A text tower from its tokens on."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.tower = nn.ModuleList(text_modules(clip))
        self._clip = [clip]  # in a list: the image tower is no part of it

    def forward(self, _: Tensor, tokens: Tensor) -> Tensor:
        return text_features(self._clip[0], tokens)


class _Features(nn.Module):
    """The upper part of an image tower."""

    def __init__(self, half: nn.Module) -> None:
        super().__init__()
        self.upper = half

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.ndim == 4:
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        output = self.upper(hidden)
        return output[0] if isinstance(output, tuple) else output


class _Bert(nn.Module):
    """The upper part of a Hugging Face text tower.

    Texts of like length are computed together, each group padded to its own longest: names of emoji in five languages
    have 7 tokens on average and 19 at most in a batch of 128, and a step took GROUPS seconds.
    """

    def __init__(self, upper: nn.Module, pooler: nn.Module, pad: int) -> None:
        super().__init__()
        self.upper, self.pooler, self.pad = upper, pooler, pad

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        seen = tokens != self.pad
        # To the last token and no further; a pad within a text is a token's place too.
        lengths = (seen * torch.arange(1, seen.shape[1] + 1, device=seen.device)).amax(1).clamp(min=1)
        order = lengths.argsort()
        parts = [
            self._pooled(hidden[part, : int(lengths[part].max())], seen[part, : int(lengths[part].max())].long())
            for part in order.chunk(GROUPS)
        ]
        return torch.cat(parts)[order.argsort()]

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        pooled: Tensor = self.pooler(self.upper(inputs_embeds=hidden, attention_mask=mask), mask)
        return pooled


class _OwnText(nn.Module):
    """The upper part of one of open_clip's own text towers."""

    def __init__(self, text: Any, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer, self.ln_final = transformer, text.ln_final
        self.mask = text.attn_mask
        self.pool = getattr(text, "text_pool_type", None) or text.pool_type
        self.eos = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        from open_clip.transformer import text_global_pool

        hidden = self.ln_final(self.transformer(hidden, attn_mask=self.mask))
        pooled: Tensor = text_global_pool(hidden, tokens, self.pool, eos_token_id=self.eos)
        return pooled

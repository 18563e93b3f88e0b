"""A dual encoder cut inside its towers: below the lowest adapter everything is computed once, above it is trained."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import Fault, ModelError, raise_faults
from kit.models.cut import DualEncoderTail, Pairs, Prefix, image_features, probe, text_features
from kit.models.dual_encoder import ClipEncoder
from kit.models.tower_blocks import Blocks, fits, image_blocks, text_blocks, text_modules, whole_image, whole_text


class Side(NamedTuple):
    """One tower, cut.

    Args:
        blocks: Its blocks.
        number: The block that activations enter; None where the tower is cut below its projection.
        where: The place in words.
    """

    blocks: Blocks
    number: int | None
    where: str

    def above(self) -> nn.Module:
        """Return what lies between the cut and the projection."""
        return nn.Identity() if self.number is None else self.blocks.above(self.number)


class DeepCut(Prefix):
    """Both towers below their lowest trained block; what ``PrefixEncoder`` takes as ``cut``.

    A tower that trains nothing below its projection is cut there. One whose blocks cannot be told apart is not cut:
    its input is what is kept, and it runs whole at every step; ``notes`` says so.

    Args:
        encoder: The model, with its adapters.
        image: The block that pictures' activations enter, counted from 0; by default the lowest trained one.
        text: Likewise of texts.
        length: How many tokens of a text are kept, so that all take equal space; towers that read a fixed length
            keep that. Longer texts are refused.

    Raises:
        ModelError: a cut above the lowest adapter, or no such block; both sides at once.
    """

    def __init__(
        self, encoder: ClipEncoder, *, image: int | None = None, text: int | None = None, length: int = 32
    ) -> None:
        super().__init__(encoder)
        self.length = length
        self.tail = DualEncoderTail(encoder)
        faults: list[Fault] = []
        self.sides = {side: self._cut(side, asked, faults) for side, asked in (("image", image), ("text", text))}
        raise_faults(faults, ModelError)
        self.notes = [f"{name} tower: {side.where}" for name, side in self.sides.items()]

    @torch.no_grad()
    def image(self, pixels: Tensor) -> Tensor:
        """Return what enters the image tower's cut, for pixels (n, 3, h, w)."""
        blocks, number, _ = self.sides["image"]
        if number is None:
            return super().image(pixels)
        # By the tower itself: its quick copy agrees to 1e-5, which turns a ReLU over here and there, and one turned
        # unit of a hundred thousand was seen to change a gradient by 3e-3.
        run = partial(image_features, self.clip.visual, getattr(self.clip.visual, "trunk", None))
        return blocks.entering(number, pixels, run).contiguous()

    @torch.no_grad()
    def text(self, tokens: Tensor) -> Tensor:
        """Return what enters the text tower's cut, for tokens (n, t): hidden states with the tokens beside them.

        Shape (n, length, width + 1), or (n, length, 1) for a tower that runs whole; below the projection (n, width).

        Raises:
            ModelError: a text with more tokens than are kept.
        """
        blocks, number, _ = self.sides["text"]
        if number is None:
            return super().text(tokens)
        own = self.encoder.text_folder is None
        room = 0 if own else self.length - tokens.shape[1]
        if room < 0:
            what = f"a text has {tokens.shape[1]} tokens, and {self.length} are kept"
            raise ModelError.of("texts", what, f"give DeepCut length={tokens.shape[1]} or more")
        hidden = blocks.entering(number, tokens, super().text) if blocks.units else tokens.new_empty(*tokens.shape, 0)
        kept = F.pad(tokens, (0, room), value=0 if own else self.clip.text.config.pad_token_id)
        return torch.cat([F.pad(hidden.float(), (0, 0, 0, room)), kept[..., None].float()], -1)

    def label(self, side: str) -> str:
        """Return where a side is cut; part of what its activations are kept under."""
        blocks, number, _ = self.sides[side]
        if number is None:
            return super().label(side)
        place = f"below block {number}" if blocks.units else "its input"
        return f"{place}, {self.length} tokens" if side == "text" else place

    def weights(self, side: str) -> dict[str, Tensor]:
        """Return a side's weights below the cut, by name."""
        # By place in memory: PEFT makes new parameters of attention's weights whenever somebody lists them.
        above = {one.data_ptr() for one in self.sides[side].above().state_dict(keep_vars=True).values()}
        return {name: one for name, one in super().weights(side).items() if one.data_ptr() not in above}

    def _cut(self, side: str, asked: int | None, faults: list[Fault]) -> Side:
        modules = [self.clip.visual] if side == "image" else text_modules(self.clip)
        projections = {id(one) for one in self.tail.parameters()}
        trained = {id(one) for one in nn.ModuleList(modules).parameters() if one.requires_grad} - projections
        blocks = self._blocks(side)
        if not trained and asked is None:
            return Side(blocks, None, "cut below its projection")
        count = len(blocks.units)
        lowest = next((one for one in range(count, -1, -1) if trained <= _ids(blocks.above(one))), None)
        if not count or lowest is None:
            why = "trains something below its blocks" if count else "is of a kind that kit cannot cut"
            return Side(self._whole(side), 0, f"{why}, so it runs whole at every step")
        number = lowest if asked is None else asked
        if not 0 <= number <= count:
            faults.append(Fault(f"cut: {side}", f"there is no block {number}", f"give one of 0 to {count - 1}"))
        elif number > lowest:
            what = f"block {number} is above the lowest adapter, which is in block {lowest}"
            faults.append(Fault(f"cut: {side}", what, f"cut at {lowest} or below, or adapt higher blocks only"))
        return Side(blocks, number, f"cut below block {number} of {count}")

    def _whole(self, side: str) -> Blocks:
        return whole_image(self.clip.visual) if side == "image" else whole_text(self.clip)

    def _blocks(self, side: str) -> Blocks:
        if side == "image":
            trunk = getattr(self.clip.visual, "trunk", None)
            blocks = image_blocks(self.clip.visual, trunk)
            right = fits(blocks, probe(self.encoder), partial(image_features, self.clip.visual, trunk))
        else:
            tokens = self.encoder.tokenize(["a few words", "and some more words"]).to(self.encoder.device)
            blocks = text_blocks(self.clip)
            right = fits(blocks, tokens, partial(text_features, self.clip), tokens)
        return blocks if right else self._whole(side)


class DeepTail(nn.Module):
    """What is trained above a deep cut: adapters in the towers' upper blocks, projections and temperature.

    While it trains, the towers stay in evaluation mode: batch norms keep their statistics, and only the adapters' and
    the projections' own dropout is on.

    Args:
        cut: Where the model is cut; the tail shares its parameters, so training the tail trains the model.
    """

    def __init__(self, cut: DeepCut) -> None:
        super().__init__()
        self.head = cut.tail
        self.image = cut.sides["image"].above()
        above = cut.sides["text"].above()
        self.text = above if cut.sides["text"].number is None else _Unpacked(above)

    def forward(self, image: Tensor, text: Tensor) -> Pairs:
        """Return both sides in the shared space, from what ``PrefixEncoder`` keeps of them."""
        pairs: Pairs = self.head(self.image(image), self.text(text))
        return pairs

    def images(self, image: Tensor) -> Tensor:
        """Return pictures' unit vectors, shape (n, d)."""
        return self.head.images(self.image(image))

    def texts(self, text: Tensor) -> Tensor:
        """Return texts' unit vectors, shape (n, d)."""
        return self.head.texts(self.text(text))

    def train(self, mode: bool = True) -> DeepTail:
        """Turn dropout on or off, of adapters and projections."""
        super().train(mode)
        for tower in (self.image, self.text):
            tower.eval()
            for module in tower.modules():
                if hasattr(module, "lora_dropout"):  # PEFT's layers; what they wrap stays as it is
                    module.training = mode
                    module.lora_dropout.train(mode)
        return self


class _Unpacked(nn.Module):
    """A text tower's upper part, on hidden states with the tokens beside them."""

    def __init__(self, above: nn.Module) -> None:
        super().__init__()
        self.above = above

    def forward(self, kept: Tensor) -> Tensor:
        features: Tensor = self.above(kept[..., :-1], kept[..., -1].round().long())
        return features


def _ids(module: nn.Module) -> set[int]:
    return {id(one) for one in module.parameters()}

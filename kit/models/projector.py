"""Between a vision tower and a language model: features become tokens of the language model's width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kit.errors import Fault, ModelError, did_you_mean, listed, raise_faults

KINDS = ("linear", "mlp")
BLOCK = 1024  # features at a time


class Projector(nn.Module):
    """Features of a picture, as tokens that a language model reads.

    Args:
        vision_width: Numbers in a feature.
        width: The language model's width.
        tokens: Features a picture.
        kind: "linear", or "mlp" for two layers with GELU between them (LLaVA-1.5, arXiv:2310.03744).
        hidden: Numbers between these two; 0 for the language model's width.
        norm: What a token's norm should be; the median of the text tokens' at the layer where the picture enters.
            (Not their mean: the first token's hidden state is a hundred times larger than the others'.)
        seed: Of the fresh weights.

    Raises:
        ModelError: an unknown kind, a size out of range or for a linear one, or a norm that is no number above 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        vision_width: int,
        width: int,
        tokens: int,
        kind: str = "linear",
        hidden: int = 0,
        norm: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        raise_faults(projector_faults(kind, hidden, norm), ModelError)
        self.scale = norm / math.sqrt(width)
        # Stages of a tower differ in scale a hundredfold; every channel is brought to mean 0 and deviation 1.
        self.register_buffer("mean", torch.zeros(vision_width))
        self.register_buffer("deviation", torch.ones(vision_width))
        self.norm = nn.LayerNorm(vision_width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            between = hidden or width
            last = nn.Linear(vision_width if kind == "linear" else between, width)
            nn.init.normal_(last.weight, std=last.in_features**-0.5)
            nn.init.zeros_(last.bias)
            first = [] if kind == "linear" else [nn.Linear(vision_width, between), nn.GELU()]
        self.layers = nn.Sequential(*first, last)
        self.place = nn.Parameter(torch.zeros(tokens, width))

    @torch.no_grad()
    def calibrate(self, features: Tensor) -> None:
        """Set each channel's mean and deviation from features of training pictures, shape (n, tokens, vision width).

        Raises:
            ModelError: no features, or features of another width.
        """
        if not len(features) or features.shape[-1] != len(self.mean):
            what = f"must be features of {len(self.mean)} numbers, got shape {tuple(features.shape)}"
            raise ModelError.of("calibrate", what, "give what the model's own vision tower makes of pictures")
        blocks = features.flatten(0, -2).split(BLOCK)  # in double precision all of them would take twice as much again
        count = sum(map(len, blocks))
        mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / count
        squares = torch.stack([(block.double() - mean).square().sum(0) for block in blocks]).sum(0)
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count).sqrt() + 1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens, shape (n, tokens, width), for features of shape (n, tokens, vision width)."""
        even = (features.to(self.place.dtype) - self.mean) / self.deviation
        tokens: Tensor = (self.layers(self.norm(even)) + self.place) * self.scale
        return tokens


def projector_faults(kind: str, hidden: int, norm: float = 1.0) -> list[Fault]:
    """Return what is wrong with a projector's settings."""
    found = []
    if kind not in KINDS:
        what = f"{kind!r} is unknown.{did_you_mean(kind, KINDS)}"
        found.append(Fault("projector", what, allowed=f"Allowed: {listed(KINDS)}."))
    elif isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 0:
        found.append(Fault("hidden", f"must be a whole number of at least 1, or 0 for the width, got {hidden!r}"))
    elif hidden and kind == "linear":
        found.append(Fault("hidden", "a linear projector has one layer", "leave it out, or use projector='mlp'"))
    if not 0 < norm < math.inf:
        found.append(Fault("projector: norm", f"must be a number above 0, got {norm!r}"))
    return found

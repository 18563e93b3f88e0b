"""What libraries do when they are asked to quantise a model and nothing more is said; and weights that flatter nobody.

The packaged SmolLM2-135M was once stored in blocks of 32 numbers on 16 even levels each (GGUF's Q4_1). Whatever rounds
in such blocks finds its own levels there and loses nothing, which says nothing about other models. ``dithered`` moves
each number by up to half a step, so that it lies anywhere between its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from kit.models.halves import trunk
from kit.models.quiet import quiet
from kit.quantization.onnx_graph import EIGHT, FLOATS, Bits, write_layers
from kit.quantization.rounding import BLOCK
from kit.quantization.runtime import OnnxLayers


@torch.no_grad()
def dithered(language: Any, *, seed: int = 0) -> Any:
    """Move every number of the layers' matrices by up to half a step of its block's 16 levels, in place.

    Args:
        language: A language model in float32, whose matrices' widths 32 divides.
        seed: Of the moves, which are uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in trunk(language).layers.modules():
        if isinstance(module, nn.Linear):
            blocks = module.weight.view(len(module.weight), -1, BLOCK)
            steps = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / 15
            blocks += (torch.rand(blocks.shape, generator=generator) - 0.5) * steps
    return language


def on_16_levels(language: Any) -> float:
    """Return the share of the layers' numbers that lie on 16 even levels of their block, to a thousandth of a step."""
    on, count = 0, 0
    for module in trunk(language).layers.modules():
        if isinstance(module, nn.Linear):
            blocks = module.weight.detach().view(len(module.weight), -1, BLOCK)
            low = blocks.amin(-1, keepdim=True)
            place = (blocks - low) / ((blocks.amax(-1, keepdim=True) - low) / 15).clamp(min=1e-12)
            on, count = on + int(((place - place.round()).abs() < 1e-3).sum()), count + blocks.numel()
    return on / count


def _transformers(folder: Path, settings: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype="auto").eval()


def bitsandbytes_8(folder: Path) -> Any:
    """Return what ``BitsAndBytesConfig(load_in_8bit=True)`` makes of a saved model."""
    from transformers import BitsAndBytesConfig

    return _transformers(folder, BitsAndBytesConfig(load_in_8bit=True))


def bitsandbytes_4(folder: Path) -> Any:
    """Return what ``BitsAndBytesConfig(load_in_4bit=True)`` makes of a saved model: fp4, unguarded."""
    from transformers import BitsAndBytesConfig

    return _transformers(folder, BitsAndBytesConfig(load_in_4bit=True))


def torchao_8(folder: Path) -> Any:
    """Return what ``TorchAoConfig(Int8WeightOnlyConfig())`` makes of a saved model."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return _transformers(folder, TorchAoConfig(Int8WeightOnlyConfig()))


DEFAULTS: Mapping[str, Callable[[Path], Any]] = MappingProxyType(
    {"bitsandbytes-8": bitsandbytes_8, "bitsandbytes-4": bitsandbytes_4, "torchao-8": torchao_8}
)


def onnxruntime_dynamic(language: Any, folder: Path) -> GraphText:
    """Return what onnxruntime's ``quantize_dynamic`` makes of a float graph of the model.

    Args:
        language: A plain language model.
        folder: Where graphs go.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic

    write_layers(language, slice(0, None), folder / "float.onnx", bits=FLOATS, head_bits=0)
    # Told by us, because its shape inference stops at onnxruntime's own operators.
    told = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", use_external_data_format=True, extra_options=told)
    return _opened(language, folder / "dynamic.onnx")


def kits_graph(language: Any, path: Path, *, bits: Bits = EIGHT, **options: Any) -> GraphText:
    """Return the model as kit exports it for onnxruntime, run by that.

    Args:
        language: A plain language model.
        path: Where the graph goes.
        bits: See ``write_layers``.
        options: What else that takes: moments.
    """
    write_layers(language, slice(0, None), path, bits=bits, **options)
    return _opened(language, path)


def _opened(language: Any, path: Path) -> GraphText:
    config = trunk(language).config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    graph = OnnxLayers(path, layers=config.num_hidden_layers, heads=config.num_key_value_heads, size=size)
    return GraphText(language, graph, path.parent.glob(f"{path.name}*"))


class GraphText(nn.Module):
    """A whole language model as one graph: it gives logits to ``text_loss``, and ``race`` times it.

    Args:
        language: The model that it came from, for embeddings.
        graph: ``OnnxLayers``, or what is called as they are.
        files: The graph's files, for its size.
    """

    def __init__(self, language: Any, graph: Any, files: Iterable[Path]) -> None:
        super().__init__()
        self.config, self.graph = language.config, graph
        self.rows = nn.Parameter(language.get_input_embeddings().weight.detach(), requires_grad=False)
        self.mb = sum(file.stat().st_size for file in files) / 1e6

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> CausalLMOutputWithPast:  # noqa: ARG002
        """Return logits, shape (1, t, vocabulary)."""
        self.graph.reset()
        logits = self.graph(self.rows[input_ids[0]].numpy())
        return CausalLMOutputWithPast(logits=torch.from_numpy(logits)[None])

    def start(self, ids: Sequence[int]) -> int:
        """Read a prompt and return the likeliest next token."""
        self.graph.reset()
        return self.go_on(*ids)

    def go_on(self, *ids: int) -> int:
        """Read one more token, or several, and return the likeliest next one."""
        found = self.graph(self.rows[list(ids)].numpy(), np.array([len(ids) - 1]))
        return int(found[-1].argmax())

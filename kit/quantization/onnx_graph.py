"""Llama's decoder layers as an ONNX graph with matrices of 8 or 4 bits, written by hand.

onnxruntime's own builder makes whole models that begin at the first layer; a stitched model's picture enters higher, so
the layers below and from there on are two graphs, and any run of layers can be written. Operators are those the
builder uses: MatMulNBits in blocks of 32 (128 does not divide SmolLM2's 576), GroupQueryAttention with its cache in
place, and simplified layer norms. Query, key and value are one product, gate and up another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.errors import Fault, ModelError, raise_faults
from kit.models.halves import trunk
from kit.models.prompts import PromptedAttention
from kit.quantization.moments import NONE, Moments
from kit.quantization.rounding import BLOCK, quantise, quantise_4
from kit.quantization.smoothing import Laid, laid_out

Bits = Mapping[str, int]  # of query, key and value ("qkv"), "o", "gate_up" and "down"

KINDS = ("qkv", "o", "gate_up", "down")
FLOATS: Bits = MappingProxyType(dict.fromkeys(KINDS, 0))
EIGHT: Bits = MappingProxyType(dict.fromkeys(KINDS, 8))
FOUR: Bits = MappingProxyType(dict.fromkeys(KINDS, 4))
# Half of a layer's weights are gate and up, and they mind least: SmolLM2-135M's perplexity (weights dithered off their
# own 4-bit grid) rises by 8% so, by 40% with everything in 4 bits; 0.24 and 0.19 of float32's size.
MIXED: Bits = MappingProxyType({**EIGHT, "gate_up": 4})
_MICROSOFT = "com.microsoft"
_INT8_KERNELS = 4  # MatMulNBits' accuracy_level: activations are quantised to 8 bits, too


@dataclass
class _Graph:
    """Nodes and weights, gathered."""

    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **settings: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **settings))
        return outputs[0]

    def weight(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def times(self, name: str, values: str, matrix: Tensor, bits: int, moments: Tensor | None = None) -> str:
        """Multiply by a frozen matrix, shape (out, in), rounded as the moments of what it reads ask."""
        rows, columns = matrix.shape
        if not bits:
            return self.node("MatMul", [values, self.weight(f"{name}.weight", _array(matrix.T))], [name])
        packed, *rest = (quantise if bits == 8 else quantise_4)(matrix, moments)
        names = ("scales", "zeros")[: len(rest)]
        inputs = [values, self.weight(f"{name}.weight", packed)]
        inputs += [self.weight(f"{name}.{what}", one) for what, one in zip(names, rest, strict=True)]
        return self.node(
            "MatMulNBits", inputs, [name], _MICROSOFT,
            K=columns, N=rows, bits=bits, block_size=BLOCK, accuracy_level=_INT8_KERNELS,
        )  # fmt: skip


def check_layers(language: Any) -> None:
    """Make sure that a language model's layers are those that can be written.

    Raises:
        ModelError: everything that is not as in Llama.
    """
    config = trunk(language).config
    matrices = [module for module in trunk(language).layers.modules() if hasattr(module, "in_features")]
    checks = {
        f"is a {config.model_type}, and only Llama's layers can be written": config.model_type == "llama",
        f"has activation {config.hidden_act}, not silu": config.hidden_act == "silu",
        "has biases in its layers": all(getattr(one, "bias", None) is None for one in matrices),
        "sees by adaption prompts, which these graphs do not hold": not any(
            isinstance(one, PromptedAttention) for one in trunk(language).layers.modules()
        ),
        "has layers that are no plain matrices: merge adapters first": all(
            type(one) is torch.nn.Linear and type(one.weight) is torch.nn.Parameter for one in matrices
        ),
        f"has a width that {BLOCK} does not divide": all(one.in_features % BLOCK == 0 for one in matrices),
    }
    raise_faults([Fault("export to ONNX", what) for what, good in checks.items() if not good], ModelError)


def write_layers(
    language: Any,
    kept: slice,
    path: Path,
    *,
    bits: Bits = EIGHT,
    head_bits: int = 8,
    head: bool = True,
    moments: Moments = NONE,
) -> None:
    """Write a run of decoder layers as one graph, its weights beside it.

    The graph reads ``hidden`` (1, t, width), ``kept`` (k) places, ``past`` lengths and caches, and gives ``out``:
    the last hidden states (1, t, width), or with a head the logits (1, k, vocabulary) at the kept places. Caches are
    (1, heads, slots, size) and are written in place where past and present are bound to one buffer.

    Args:
        language: A plain causal language model of Llama's kind.
        kept: Which layers.
        path: The file; its weights go to the same name with ``.data`` appended.
        bits: Of the layers' matrices, by kind: 8, 4, or 0 for float32.
        head_bits: Of the head's.
        head: Whether last norm and head follow.
        moments: What the layers' matrices are rounded by: ``kit.quantization.moments.moments``.
    """
    import onnx
    from onnx import TensorProto, helper

    whole, graph = trunk(language), _Graph()
    config, numbers = whole.config, range(len(whole.layers))[kept]
    _rotary(graph, whole, config)
    hidden, skip = "hidden", ""
    for place, number in enumerate(numbers):
        laid, scaling = laid_out(language, number, moments), float(whole.layers[number].self_attn.scaling)
        hidden, skip = _layer(graph, laid, place, (hidden, skip), config=config, bits=bits, scaling=scaling)
    if head:
        normed, _ = _normed(graph, "norm", (hidden, skip), whole.norm.weight, config)
        picked = graph.node("Gather", [normed, "kept"], ["picked"], axis=1)
        last = graph.times("head", picked, language.get_output_embeddings().weight, head_bits)
    else:
        last = graph.node("Add", [hidden, skip], ["sum"])
    graph.node("Identity", [last], ["out"])
    floats, cache = TensorProto.FLOAT, [1, config.num_key_value_heads, "slots", _size(config)]
    inputs = [helper.make_tensor_value_info("hidden", floats, [1, "t", config.hidden_size])]
    inputs += [helper.make_tensor_value_info("kept", TensorProto.INT64, ["k"])] if head else []
    inputs += [helper.make_tensor_value_info("last_place", TensorProto.INT32, [1])]
    inputs += [helper.make_tensor_value_info("total", TensorProto.INT32, [])]
    outputs = [helper.make_tensor_value_info("out", floats, [1, "n", "m"])]
    for number in range(len(numbers)):
        for what in ("key", "value"):
            inputs.append(helper.make_tensor_value_info(f"past_{what}_{number}", floats, cache))
            outputs.append(helper.make_tensor_value_info(f"present_{what}_{number}", floats, cache))
    made = helper.make_model(
        helper.make_graph(graph.nodes, "layers", inputs, outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)],
        ir_version=10, producer_name="kit",
    )  # fmt: skip
    onnx.save_model(
        made, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024,
        all_tensors_to_one_file=True, convert_attribute=False,
    )  # fmt: skip


def _layer(
    graph: _Graph, laid: Laid, number: int, entering: tuple[str, str], *, config: Any, bits: Bits, scaling: float
) -> tuple[str, str]:
    name = f"layer{number}"

    def times(kind: str, values: str) -> str:
        return graph.times(f"{name}.{kind}", values, laid.matrices[kind], bits[kind], laid.moments[kind])

    normed, skip = _normed(graph, f"{name}.in", entering, laid.gains[0], config)
    past, present = (f"{when}_{{}}_{number}" for when in ("past", "present"))
    seen = graph.node(
        "GroupQueryAttention",
        [times("qkv", normed), "", "", past.format("key"), past.format("value"), "last_place", "total", "cos", "sin"],
        [f"{name}.attention", present.format("key"), present.format("value")], _MICROSOFT,
        num_heads=config.num_attention_heads, kv_num_heads=config.num_key_value_heads, do_rotary=1, scale=scaling,
    )  # fmt: skip
    normed, skip = _normed(graph, f"{name}.post", (times("o", seen), skip), laid.gains[1], config)
    gate, up = f"{name}.gate", f"{name}.up"
    graph.node("Split", [times("gate_up", normed)], [gate, up], axis=-1, num_outputs=2)
    active = graph.node("QuickGelu", [gate], [f"{name}.silu"], _MICROSOFT, alpha=1.0)  # x times its sigmoid
    product = graph.node("Mul", [active, up], [f"{name}.product"])
    return times("down", product), skip


def _normed(graph: _Graph, name: str, entering: tuple[str, str], gain: Tensor, config: Any) -> tuple[str, str]:
    """Add what enters to what went around, norm it, and return the norm and the sum."""
    hidden, skip = entering
    weight = graph.weight(f"{name}.gain", _array(gain))
    if not skip:
        settings = {"axis": -1, "epsilon": config.rms_norm_eps, "stash_type": 1}
        return graph.node("SimplifiedLayerNormalization", [hidden, weight], [f"{name}.norm"], **settings), hidden
    outputs = [f"{name}.norm", "", "", f"{name}.sum"]
    graph.node(
        "SkipSimplifiedLayerNormalization", [hidden, skip, weight], outputs, _MICROSOFT, epsilon=config.rms_norm_eps
    )
    return outputs[0], outputs[3]


def _rotary(graph: _Graph, whole: Any, config: Any) -> None:
    positions = torch.arange(config.max_position_embeddings)[None]
    cos, sin = whole.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
    half = _size(config) // 2
    graph.weight("cos", _array(cos[0, :, :half]))
    graph.weight("sin", _array(sin[0, :, :half]))


def _size(config: Any) -> int:
    """Return the size of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return found

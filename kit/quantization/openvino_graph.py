"""A language model of Llama's kind run by OpenVINO, which keeps its cache itself: the rival of kit's ONNX graph.

It is no export: with the same rounded numbers it reads prompts somewhat faster than onnxruntime and writes at half its
rate. ``bench_quantization`` measures both, so that it is known when that changes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.errors import ModelError
from kit.models.halves import trunk
from kit.quantization.defaults import GraphText
from kit.quantization.moments import NONE, Moments
from kit.quantization.onnx_graph import check_layers
from kit.quantization.rounding import quantise
from kit.quantization.smoothing import Laid, laid_out

_FLOATS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def openvino_text(language: Any, path: Path, *, moments: Moments = NONE) -> GraphText:
    """Return a language model with its matrices in 8 bits, run by OpenVINO.

    Args:
        language: A plain causal language model of Llama's kind.
        path: Where its graph goes, an ``.xml`` file; the weights go beside it.
        moments: What its matrices are rounded by; see ``kit.quantization.onnx_graph.write_layers``.

    Raises:
        ModelError: everything that is not as in Llama; OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise ModelError.of("openvino", "is not installed", "pip install 'multimodal-kit[bench]'")
    import openvino

    check_layers(language)
    openvino.save_model(_Builder(language, moments).model(), str(path), compress_to_fp16=False)
    files = [path, path.with_suffix(".bin")]
    return GraphText(language, OpenVinoLayers(path), files)


class OpenVinoLayers:
    """A graph that remembers what it read; called as ``kit.quantization.runtime.OnnxLayers`` are.

    Args:
        path: The graph, its weights beside it.
    """

    def __init__(self, path: Path) -> None:
        import openvino

        settings = {**_FLOATS, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.asked = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
        self.length = 0

    def reset(self) -> None:
        """Forget everything that was read."""
        self.asked.reset_state()
        self.length = 0

    def __call__(self, hidden: NDArray[np.float32], kept: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Return logits, shape (k, vocabulary), at the kept places of some more embeddings (t, width), or at all."""
        fresh, total = len(hidden), self.length + len(hidden)
        unseen = np.triu(np.full((fresh, total), np.finfo(np.float32).min, np.float32), 1 + self.length)
        given = {
            "hidden": hidden[None], "mask": unseen[None, None], "places": np.arange(self.length, total),
            "beam_idx": np.zeros(1, np.int32), "kept": np.arange(fresh) if kept is None else kept,
        }  # fmt: skip
        self.length = total
        out: NDArray[np.float32] = self.asked.infer(given)[0][0]
        return out.copy()  # the next call writes where this one did


class _Builder:
    """The graph of a model, with the patterns that OpenVINO's processor plugin knows as one step each."""

    def __init__(self, language: Any, moments: Moments) -> None:
        from openvino import opset13

        self.op, self.language, self.moments = opset13, language, moments
        config = trunk(language).config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width, self.eps = config.hidden_size, config.rms_norm_eps
        self.size = getattr(config, "head_dim", None) or self.width // self.heads
        self.kept: list[Any] = []

    def model(self) -> Any:
        """Return the whole model, from embeddings to logits at the kept places."""
        from openvino import Model, Type

        op, whole = self.op, trunk(self.language)
        shapes = {"hidden": [1, -1, self.width], "mask": [1, 1, -1, -1], "places": [-1], "beam_idx": [1], "kept": [-1]}
        types = {"places": Type.i64, "kept": Type.i64, "beam_idx": Type.i32}
        given = {name: op.parameter(shape, types.get(name, Type.f32), name=name) for name, shape in shapes.items()}
        for name, one in given.items():
            one.output(0).set_names({name})
        positions = torch.arange(whole.config.max_position_embeddings)[None]
        turned = whole.rotary_emb(torch.zeros(1), positions)
        turns = [op.unsqueeze(op.gather(_array(one[0]), given["places"], 0), _whole(0, 1)) for one in turned]
        hidden = given["hidden"]
        for number in range(len(whole.layers)):
            laid = laid_out(self.language, number, self.moments)
            hidden = self._layer(laid, number, hidden, turns=turns, given=given)
        picked = op.gather(self._normed(hidden, whole.norm.weight), given["kept"], 1)
        logits = self._times(picked, self.language.get_output_embeddings().weight)
        return Model([op.result(logits)], self.kept, list(given.values()), "language")

    def _layer(self, laid: Laid, number: int, hidden: Any, *, turns: Any, given: Any) -> Any:
        op, scaling = self.op, trunk(self.language).layers[number].self_attn.scaling

        def times(kind: str, values: Any) -> Any:
            return self._times(values, laid.matrices[kind], laid.moments[kind])

        shape = _whole(0, 0, self.heads + 2 * self.groups, self.size)
        each = op.reshape(times("qkv", self._normed(hidden, laid.gains[0])), shape, special_zero=True)
        parts = _whole(self.heads, self.groups, self.groups)
        query, key, value = op.variadic_split(op.transpose(each, _whole(0, 2, 1, 3)), 1, parts).outputs()
        keys = self._remembered(self._turned(key, *turns), f"key{number}", given["beam_idx"])
        values = self._remembered(value, f"value{number}", given["beam_idx"])
        queries = self._turned(query, *turns)
        seen = op.scaled_dot_product_attention(queries, keys, values, given["mask"], np.float32(scaling))
        flat = op.reshape(op.transpose(seen, _whole(0, 2, 1, 3)), _whole(0, 0, -1), special_zero=True)
        hidden = op.add(hidden, times("o", flat))
        gate, up = op.split(times("gate_up", self._normed(hidden, laid.gains[1])), -1, 2).outputs()
        return op.add(hidden, times("down", op.multiply(op.swish(gate), up)))

    def _times(self, values: Any, matrix: Tensor, moments: Tensor | None = None) -> Any:
        """Multiply by a matrix, shape (out, in), in 8 bits: blocks of 32 columns with a scale each."""
        op = self.op
        numbers, scales = quantise(matrix, moments)
        signed = op.convert(op.constant((numbers.astype(np.int16) - 128).astype(np.int8)), "f32")
        weights = op.reshape(op.multiply(signed, scales[..., None]), _whole(*matrix.shape), special_zero=False)
        return op.matmul(values, weights, False, True)

    def _normed(self, values: Any, gain: Tensor) -> Any:
        op = self.op
        mean = op.reduce_mean(op.power(values, np.float32(2)), _whole(-1), keep_dims=True)
        scaled = op.multiply(values, op.power(op.add(mean, np.float32(self.eps)), np.float32(-0.5)))
        return op.multiply(_array(gain), scaled)

    def _turned(self, values: Any, cos: Any, sin: Any) -> Any:
        """Turn heads by their places, as rotary embeddings do."""
        op = self.op
        first, second = op.split(values, -1, 2).outputs()
        across = op.concat([op.multiply(second, np.float32(-1)), first], -1)
        return op.add(op.multiply(values, cos), op.multiply(across, sin))

    def _remembered(self, fresh: Any, name: str, beam: Any) -> Any:
        """Put keys or values behind those that were kept, keep all, and return them once for each query head."""
        from openvino import PartialShape, Type

        op, shape = self.op, PartialShape([1, self.groups, -1, self.size])
        empty = op.constant(np.zeros((1, self.groups, 0, self.size), np.float32))
        before = op.gather(op.read_value(empty, name, Type.f32, shape), beam, 0)
        whole = op.concat([before, fresh], 2)
        self.kept.append(op.assign(whole, name))
        length = op.gather(op.shape_of(whole), _whole(2), 0)
        many = op.concat([_whole(1, self.groups, self.heads // self.groups), length, _whole(self.size)], 0)
        spread = op.broadcast(op.unsqueeze(whole, _whole(2)), many, "BIDIRECTIONAL")
        return op.reshape(spread, _whole(0, self.heads, -1, self.size), special_zero=True)


def _whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return found

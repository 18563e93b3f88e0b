"""A stitched model run by onnxruntime alone: tower, layers below the picture's entry, layers from there on.

It is spoken to as the model that it came from, so that the same code asks both: ``VisionLanguage`` around it gives
logits to the parity gate, perplexity to ``text_loss`` and answers to ``kit.models.chat.answer``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from kit.errors import BundleError
from kit.manifest import verify
from kit.models.load import heritage
from kit.models.vision_language import VisionLanguage
from kit.quantization.rounding import BLOCK

FILE = "runtime.json"
KIND = "onnx-vision-language"
LAYOUT = 1
_SLOTS = 256  # a cache grows by so many tokens

Floats = NDArray[np.float32]


def open_session(path: Path, threads: int | None = None) -> Any:
    """Return onnxruntime's session of a graph, on the CPU.

    Args:
        path: The graph.
        threads: As many as torch uses by default.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    # A session's idle threads wait by spinning, on the cores that the next session of the same model needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxLayers:
    """A run of decoder layers with its cache.

    Args:
        path: The graph.
        layers: How many layers it has.
        heads: Key and value heads.
        size: Of a head.
        threads: Of onnxruntime; as many as torch uses by default.
    """

    def __init__(self, path: Path, *, layers: int, heads: int, size: int, threads: int | None = None) -> None:
        import onnxruntime

        self._ort = onnxruntime
        self.session = open_session(path, threads)
        self.asks = "kept" in {one.name for one in self.session.get_inputs()}
        self.shape, self.layers, self.length, self.slots = (1, heads, 0, size), layers, 0, 0
        self.caches: dict[str, Any] = {}

    def reset(self) -> None:
        """Forget everything that was read."""
        self.length = 0

    def __call__(self, hidden: Floats, kept: NDArray[np.int64] | None = None) -> Floats:
        """Return hidden states (t, width) for such, or with a head logits (k, vocabulary) at the kept places."""
        total = self.length + len(hidden)
        if total > self.slots:
            self._grow(total)
        binding = self.binding
        binding.bind_cpu_input("hidden", np.ascontiguousarray(hidden[None], dtype=np.float32))
        binding.bind_cpu_input("last_place", np.array([total - 1], np.int32))
        binding.bind_cpu_input("total", np.array(total, np.int32))
        if self.asks:
            binding.bind_cpu_input("kept", np.arange(len(hidden)) if kept is None else kept)
        binding.bind_output("out", "cpu")
        self.session.run_with_iobinding(binding)
        self.length = total
        out: Floats = binding.get_outputs()[-1].numpy()[0]
        return out

    def _grow(self, total: int) -> None:
        """Make room in the caches, which layers read and write in place."""
        slots = -(-total // _SLOTS) * _SLOTS
        shape = (self.shape[0], self.shape[1], slots, self.shape[3])
        self.binding = self.session.io_binding()
        for number in range(self.layers):
            for what in ("key", "value"):
                name = f"{what}_{number}"
                room = np.zeros(shape, np.float32)
                if self.length:
                    room[:, :, : self.length] = self.caches[name].numpy()[:, :, : self.length]
                value = self._ort.OrtValue.ortvalue_from_numpy(room)
                self.caches[name] = value
                self.binding.bind_ortvalue_input(f"past_{name}", value)
                self.binding.bind_ortvalue_output(f"present_{name}", value)
        self.slots = slots


class OnnxLanguage(nn.Module):
    """Both runs of layers, and embeddings read from the head's own quantised rows.

    Args:
        folder: Where the graphs are.
        said: What ``runtime.json`` says.
        threads: See ``OnnxLayers``.
    """

    def __init__(self, folder: Path, said: dict[str, Any], threads: int | None) -> None:
        super().__init__()
        each = {"heads": said["heads"], "size": said["size"], "threads": threads}
        entry = said["entry_layer"]
        self.below = OnnxLayers(folder / "below.onnx", layers=entry, **each) if entry else None
        self.above = OnnxLayers(folder / "above.onnx", layers=said["layers"] - entry, **each)
        self.rows = EmbeddingRows(folder, said["embedding"])
        self.register_buffer("place", torch.zeros(1), persistent=False)

    def reset(self) -> None:
        """Forget everything that was read."""
        for one in (self.below, self.above):
            if one is not None:
                one.reset()

    def read(self, ids: NDArray[np.int64], pictures: Floats | None, here: NDArray[np.bool_], *, every: bool) -> Floats:
        """Read tokens and return logits, shape (k, vocabulary): at each place, or at the last one alone.

        Args:
            ids: Shape (t,).
            pictures: A picture's tokens, shape (m, width); None where there is none.
            here: Which places are the picture's, shape (t,).
            every: Whether logits are wanted at each place.
        """
        hidden = self.rows(ids[~here])
        if self.below is not None and len(hidden):
            hidden = self.below(hidden)
        if pictures is not None and here.any():
            whole = np.empty((len(ids), hidden.shape[1]), np.float32)
            whole[~here], whole[here] = hidden, pictures
            hidden = whole
        return self.above(hidden, None if every else np.array([len(hidden) - 1]))

    # What ``kit.quantization.speed.race`` times.

    def start(self, ids: Sequence[int]) -> int:
        """Read a prompt and return the likeliest next token."""
        self.reset()
        return self.go_on(*ids)

    def go_on(self, *ids: int) -> int:
        """Read one more token, or several, and return the likeliest next one."""
        given = np.array(ids, np.int64)
        return int(self.read(given, None, np.zeros(len(given), bool), every=False)[-1].argmax())


class EmbeddingRows:
    """Rows of an embedding, each read from the file when it is asked for.

    Args:
        folder: Where the graphs are.
        said: File, offsets, vocabulary and width; see ``kit.quantization.export``.
    """

    def __init__(self, folder: Path, said: dict[str, Any]) -> None:
        vocabulary, blocks = said["vocabulary"], said["width"] // BLOCK
        file = folder / said["file"]
        self.numbers = np.memmap(file, np.uint8, "r", said["weight"], (vocabulary, blocks, BLOCK))
        self.scales = np.memmap(file, np.float32, "r", said["scales"], (vocabulary, blocks))

    def __call__(self, ids: NDArray[np.int64]) -> Floats:
        """Return embeddings, shape (t, width)."""
        values = (self.numbers[ids].astype(np.float32) - 128) * self.scales[ids][..., None]
        rows: Floats = values.reshape(len(ids), -1)
        return rows


class OnnxStitched(nn.Module):
    """A stitched model in onnxruntime, with the face of ``StitchedModel``.

    Args:
        folder: Where it was exported to.
        threads: Of onnxruntime; as many as torch uses by default.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        from kit.models.stitched import StitchedConfig

        super().__init__()
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        self.config = StitchedConfig.from_pretrained(folder, local_files_only=True)
        self.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        self.language_model = OnnxLanguage(folder, said, threads)
        self.eyes = open_session(folder / "picture.onnx", threads)
        self.dtype = torch.float32
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)  # so that it has a device

    def project(self, pixel_values: Tensor) -> Tensor:
        """Return pictures as the language model reads them, shape (n, tokens, width), for pixels (n, 3, h, w)."""
        each = [self.eyes.run(None, {"pixel_values": one[None].float().numpy()})[0] for one in pixel_values]
        return torch.from_numpy(np.concatenate(each))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, pixel_values: Tensor | None = None, **_: Any
    ) -> CausalLMOutputWithPast:
        """Return logits, shape (b, t, vocabulary), zeros where the mask is; rows are read one after the other."""
        rows = self._rows(input_ids, attention_mask, pixel_values)
        found = [(mask, self._read(ids, mask, picture, every=True)) for ids, mask, picture in rows]
        logits = torch.zeros(*input_ids.shape, found[0][1].shape[1])
        for row, (mask, own) in enumerate(found):
            logits[row, torch.from_numpy(mask)] = torch.from_numpy(own)
        return CausalLMOutputWithPast(logits=logits)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        max_new_tokens: int = 32,
        streamer: Any = None,
        stopping_criteria: Any = None,
        **_: Any,
    ) -> Tensor:
        """Return prompts with the likeliest answers, shape (b, t + n), filled up; the rest is as in transformers."""
        ends = self.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        fill = self.generation_config.pad_token_id or 0
        answers = []
        for ids, mask, picture in self._rows(input_ids, attention_mask, pixel_values):
            logits, said = self._read(ids, mask, picture, every=False), []
            if streamer is not None:
                streamer.put(input_ids)
            while len(said) < max_new_tokens:
                said.append(self._likeliest(logits[-1]))
                if streamer is not None:
                    streamer.put(torch.tensor(said[-1:]))
                over = stopping_criteria is not None and stopping_criteria(torch.tensor([said]), None).all()
                if over or said[-1] in ends or len(said) == max_new_tokens:
                    break
                logits = self.language_model.read(np.array(said[-1:]), None, np.zeros(1, bool), every=False)
            answers.append(said)
        if streamer is not None:
            streamer.end()
        width = max(map(len, answers))
        fresh = torch.tensor([said + [fill] * (width - len(said)) for said in answers])
        return torch.cat([input_ids, fresh], 1)

    def _likeliest(self, logits: Floats) -> int:
        if self.config.image_token_id < len(logits):
            logits[self.config.image_token_id] = -np.inf
        return int(logits.argmax())

    def _rows(self, ids: Tensor, mask: Tensor | None, pixels: Tensor | None) -> list[Any]:
        mask = torch.ones_like(ids) if mask is None else mask
        pictures = iter(()) if pixels is None else iter(self.project(pixels).numpy())
        seen = (ids == self.config.image_token_id).any(1).tolist()
        return [
            (row, own, next(pictures) if shown else None)
            for row, own, shown in zip(ids.numpy(), mask.bool().numpy(), seen, strict=True)
        ]

    def _read(self, ids: NDArray[Any], mask: NDArray[Any], picture: Floats | None, *, every: bool) -> Floats:
        self.language_model.reset()
        given = ids[mask]
        return self.language_model.read(given, picture, given == self.config.image_token_id, every=every)


def open_runtime(folder: Path | str, *, threads: int | None = None) -> VisionLanguage:
    """Return an exported model after verifying every file.

    Args:
        folder: What ``kit export --format onnx`` wrote.
        threads: Of onnxruntime; as many as torch uses by default.

    Raises:
        BundleError: files that differ from what was written, another kind of folder, or one from a newer kit.
    """
    from kit.models.stitched_processor import StitchedProcessor

    place = Path(folder).absolute()
    manifest = verify(place)
    if manifest.kind != KIND:
        raise BundleError.of(str(place), f"is a {manifest.kind}, not an export to ONNX", "kit export --format onnx")
    if json.loads((place / FILE).read_text(encoding="utf-8"))["layout"] > LAYOUT:
        raise BundleError.of(str(place), "is from a newer kit", "pip install -U multimodal-kit")
    model = OnnxStitched(place, threads=threads).eval()
    return VisionLanguage(model, StitchedProcessor.from_pretrained(place), heritage(manifest), f"onnx:{place}")

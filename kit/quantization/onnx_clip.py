"""A CLIP's two towers in int8, run by onnxruntime.

Convolutions are calibrated: what passes between them is held in 8 bits, too, whose ranges are taken from real pictures.
The first four stay in float32, since the large, sparse activations there cost most (mean cosine 0.973 with them
quantised, 0.994 without, EfficientNet-Lite0), and so does every plain matrix of the picture's tower. A text tower's
matrices are held in int8 and its activations quantised as they come, which needs no calibration.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.adapters.bundle import TEXT_FILES, Bundle
from kit.data.picture import Picture
from kit.errors import BundleError, DataError
from kit.manifest import verify
from kit.models.dual_encoder import ClipEncoder, architecture
from kit.models.frozen import quick
from kit.models.load import CONFIG, heritage
from kit.quantization.runtime import open_session
from kit.quantization.sealed import seal

KIND = "onnx-dual-encoder"
_FIRST = 4  # convolutions that stay in float32
_BATCH = 8


class OnnxClip(ClipEncoder):
    """A dual encoder whose towers are graphs."""

    def _run(self, tower: str, values: Tensor) -> Tensor:
        session = getattr(self.clip, tower)
        (asked,) = session.get_inputs()
        size = _BATCH if isinstance(asked.shape[0], str) else 1
        parts = [session.run(None, {asked.name: one.cpu().numpy()})[0] for one in values.split(size)]
        return torch.from_numpy(np.concatenate(parts))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return unit vectors, shape (n, d), for pixels of shape (n, 3, height, width)."""
        return self._run("image", pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unit vectors, shape (n, d), for token ids of shape (n, length)."""
        return self._run("text", tokens)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, shape (n, length), padded to the longest text where the tower masks its padding."""
        tokens: Tensor = self.tokenizer(list(texts))
        if self.text_folder is None:
            return tokens
        pad = self.tokenizer.tokenizer.pad_token_id
        return tokens[:, : max(2, int((tokens != pad).sum(1).max()))]


class _Sessions(nn.Module):
    def __init__(self, folder: Path, threads: int | None, logit_scale: float, digest: str) -> None:
        super().__init__()
        self.digest = digest  # of all that is in the folder: what the towers say may be kept under it
        self.image, self.text = (open_session(folder / f"{name}.onnx", threads) for name in ("image", "text"))
        # Also what says which device it is on.
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale), requires_grad=False)


def write_onnx_clip(folder: Path, encoder: ClipEncoder, calibration: Sequence[Picture], bundle: Bundle) -> None:
    """Write both towers in int8, with the tokenizer and what happens to a picture before.

    Args:
        folder: A new folder.
        encoder: The bundle's model.
        calibration: Pictures like those that it will see; some dozens.
        bundle: The bundle, which the export names as its parent.

    Raises:
        DataError: no pictures.
    """
    if not calibration:
        raise DataError.of("calibration", "there are no pictures", "give some dozens like those that it will see")
    folder.mkdir(parents=True)
    pixels = torch.stack([encoder.preprocess(one.open()) for one in calibration])
    with tempfile.TemporaryDirectory(prefix="kit-onnx-") as work, _hushed():
        plain = Path(work) / "image.onnx"
        _write_image(plain, _Image(encoder, pixels[:1]).eval(), pixels)
        _calibrated(plain, folder / "image.onnx", pixels)
        _write_text(Path(work) / "text.onnx", encoder)
        _dynamic(Path(work) / "text.onnx", folder / "text.onnx")
    _write_rest(folder, encoder)
    seal(folder, KIND, bundle, made="ONNX, int8", parameters={"calibrated_on": len(calibration)})


def open_onnx_clip(folder: Path | str, *, threads: int | None = None) -> OnnxClip:
    """Return exported towers after verifying every file.

    Raises:
        BundleError: files that differ from what was written, or another kind of folder.
    """
    import open_clip
    from open_clip.tokenizer import HFTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2

    place = Path(folder).absolute()
    manifest = verify(place)
    if manifest.kind != KIND:
        raise BundleError.of(str(place), f"is a {manifest.kind}, not exported towers", "kit export --format onnx")
    config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    model_cfg, preprocess_cfg = config["model_cfg"], config["preprocess_cfg"]
    context = model_cfg["text_cfg"].get("context_length", 77)
    masked = config["masks_padding"]
    known = (place / "tokenizer_config.json").is_file()
    tokenizer = (
        HFTokenizer(str(place), context_length=context) if known else open_clip.SimpleTokenizer(context_length=context)
    )
    return OnnxClip(
        _Sessions(place, threads, config["logit_scale"], manifest.digest()),
        image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False), tokenizer, model_cfg,
        preprocess_cfg, heritage(manifest), f"onnx:{place}", place if masked else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Likeness:
    """How far exported towers are from the bundle's.

    Args:
        image: The mean cosine of a picture's two vectors.
        text: The mean cosine of a text's.
        points: Points of recall@1 lost; None where no pairs were given.
        n: How many pictures and how many texts were compared.
    """

    image: float
    text: float
    points: float | None = None
    n: int = 0

    def faults(self, *, cosine: float = 0.97, points: float = 1.0) -> list[str]:
        """Return what is beyond its tolerance, in words."""
        found = [
            f"{side}: mean cosine {value:.4f}, at least {cosine:g} is asked"
            for side, value in (("image", self.image), ("text", self.text))
            if not value >= cosine
        ]
        if self.points is not None and not self.points <= points:
            found.append(f"recall@1: {self.points:.2f} points lost, at most {points:g} are allowed")
        return found


@torch.no_grad()
def likeness(
    encoder: ClipEncoder, copy: ClipEncoder, pictures: Sequence[Picture], texts: Sequence[str], *, pairs: bool
) -> Likeness:
    """Compare both towers of a copy with their own.

    Args:
        encoder: The bundle's model.
        copy: The exported one.
        pictures: Pictures that were not calibrated on.
        texts: Texts; where ``pairs``, the i-th belongs to the i-th picture.
        pairs: Whether recall@1 means anything.
    """
    from kit.evaluation.metrics import recall_at_k

    pixels = torch.stack([encoder.preprocess(one.open()) for one in pictures])
    images = [torch.cat([each.encode_image(part) for part in pixels.split(_BATCH)]).float() for each in (encoder, copy)]
    tokens = encoder.tokenize(texts)
    words = [torch.cat([each.encode_text(part) for part in tokens.split(_BATCH)]).float() for each in (encoder, copy)]
    lost = None
    if pairs:
        before, after = (recall_at_k(text @ image.T, 1) for text, image in zip(words, images, strict=True))
        lost = 100 * (before - after)
    cosines = [float((one * other).sum(1).mean()) for one, other in (images, words)]
    return Likeness(*cosines, lost, len(pictures))


class _Image(nn.Module):
    def __init__(self, encoder: ClipEncoder, pixels: Tensor) -> None:
        super().__init__()
        visual: Any = encoder.clip.visual
        self.tower = quick(visual, pixels)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.tower(pixels), dim=-1)


class _Text(nn.Module):
    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.clip: Any = encoder.clip

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_text(tokens), dim=-1)


def _write_image(path: Path, tower: nn.Module, pixels: Tensor) -> None:
    """Write the picture's tower for any number of pictures, or where its code fixes that, for one."""
    import onnxruntime

    some = pixels[:1].repeat(3, 1, 1, 1)
    _traced(tower, some[:2], path, "pixels", [{0: torch.export.Dim("n")}])
    try:
        onnxruntime.InferenceSession(str(path)).run(None, {"pixels": some.numpy()})
    except Exception:  # noqa: BLE001 - onnxruntime's errors have no common base
        _traced(tower, some[:1], path, "pixels", None)


def _write_text(path: Path, encoder: ClipEncoder) -> None:
    dims: dict[int, Any] = {0: torch.export.Dim("n")}
    if encoder.text_folder is not None:
        dims[1] = torch.export.Dim("t", min=2, max=encoder.tokenizer.context_length)
    tokens = encoder.tokenize(["a small red circle", "two dogs"])
    _traced(_Text(encoder).eval(), tokens, path, "tokens", [dims])


def _traced(module: nn.Module, given: Tensor, path: Path, name: str, dims: Any) -> None:
    torch.onnx.export(
        module, (given,), str(path), input_names=[name], output_names=["vectors"], dynamic_shapes=dims, dynamo=True,
        external_data=False,
    )  # fmt: skip


def _calibrated(plain: Path, target: Path, pixels: Tensor) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = plain.with_name("ready.onnx")
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    graph = onnx.load(str(ready)).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    fixed = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if not convolutions[_FIRST:]:  # a vision transformer: its matrices, as a text tower's
        _dynamic(plain, target)
        return
    floats = [node.name for node in graph.node if node.op_type in {"Gemm", "MatMul"}] + convolutions[:_FIRST]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(pixels.split(fixed or _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.left, None)
            return None if part is None else {"pixels": part.numpy()}

    quantize_static(
        str(ready), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=floats,
    )  # fmt: skip


def _dynamic(plain: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(plain), str(target), weight_type=QuantType.QInt8, per_channel=True)


def _write_rest(folder: Path, encoder: ClipEncoder) -> None:
    if encoder.text_folder is not None:
        for name in TEXT_FILES:
            if (encoder.text_folder / name).is_file():
                shutil.copyfile(encoder.text_folder / name, folder / name)
    elif hasattr(encoder.tokenizer, "save_pretrained"):
        encoder.tokenizer.save_pretrained(folder)
    config = {
        "model_cfg": architecture(encoder.model_cfg),  # without where its weights once lay on somebody's machine
        "preprocess_cfg": dict(encoder.preprocess_cfg),
        "masks_padding": encoder.text_folder is not None,
        "logit_scale": float(encoder.clip.logit_scale.detach()),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep exporter and quantiser from reporting each of their steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)

"""Dual encoders for tests: the packaged one, and a tiny native CLIP with random weights."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kit.data.picture import Picture
from kit.models.dual_encoder import ClipEncoder
from kit.models.load import load_dual_encoder

STITCH = "stitch:efficientnet-lite0+minilm-l6"
TINY = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
}
PREPROCESS = {"size": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}


def write_clip(folder: Path, settings: dict, seed: int = 0) -> Path:
    """Write a native CLIP with random weights as open_clip lays it out."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = CLIP(**settings).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": settings, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def fresh(encoder: ClipEncoder) -> ClipEncoder:
    """Return a copy that a test may train."""
    return dataclasses.replace(encoder, clip=copy.deepcopy(encoder.clip))


def noise_pictures(n: int, size: int = 40) -> list[Picture]:
    """Return n distinct pictures of smooth noise."""
    from PIL import Image

    pictures = []
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((size, size)).save(file, "PNG")
        pictures.append(Picture(f"noise {number}", reader=file.getvalue))
    return pictures


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in one thread, here and in child processes.

    Threads that wait for each other in a loop made these tests three times slower on two shared cores (149 s, 47 s).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def stitched() -> ClipEncoder:
    """The two packaged towers, with a linear projection and dropout; not to be changed."""
    return load_dual_encoder(STITCH, device="cpu", dropout=0.3)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny native CLIP in open_clip's layout."""
    return write_clip(tmp_path_factory.mktemp("tiny") / "clip", TINY)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> ClipEncoder:
    """A tiny native CLIP; not to be changed."""
    return load_dual_encoder(f"local-dir:{tiny_folder}", device="cpu")

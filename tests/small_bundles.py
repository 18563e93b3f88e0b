"""Bundles with random weights, made in a second: a CLIP with twelve pictures, and a language model that sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from dual_encoders import TINY, noise_pictures, write_clip
from free_ports import free_port
from gradio_client import Client
from stitched_models import tiny_stitch, write_language

import kit
from kit.adapters.bundle import Bundle
from kit.adapters.language import adapt_language
from kit.result import Measurement
from kit.sharing.demo import Demo, demo

NAMES = [f"thing number {number}" for number in range(12)]
MEASURED = {"recall_at_1": Measurement(0.5, "share", 4, 0.1, 0.9, method="exact", baseline=0.25, split="test")}


def program(served: Demo) -> Client:
    """Return what a program asks a page by; httpx alone gives a busy machine 5 seconds for each answer."""
    return Client(served.address, verbose=False, httpx_kwargs={"timeout": 120})


def write_pictures(folder: Path, *, questions: bool = False) -> Path:
    """Write twelve pictures with captions or questions, four of them in the split test."""
    folder.mkdir(parents=True)
    lines = []
    for number, picture in enumerate(noise_pictures(12)):
        (folder / f"{number}.png").write_bytes(picture.read())
        line = {"file_name": f"{number}.png", "split": "test" if number % 3 == 0 else "train"}
        asked = {"question": f"what is number {number}?", "answer": "red" if number % 2 else "blue"}
        lines.append(json.dumps({**line, **(asked if questions else {"text": NAMES[number]})}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def clip_bundle(folder: Path, name: str = "Tiny <b>CLIP</b>", seed: int = 0) -> Bundle:
    """Return the bundle of a random CLIP; its name is a visitor's trap."""
    pictures = folder / "pictures"
    if not pictures.exists():
        write_pictures(pictures)
    encoder = kit.load_dual_encoder(f"local-dir:{write_clip(folder / f'clip-{seed}', TINY, seed)}", device="cpu")
    rows = kit.load_rows(f"folder:{pictures}", split="train")
    return kit.save_bundle(
        folder / f"bundle-{seed}", encoder, name=name, data=(kit.data_use(rows),), measurements=MEASURED
    )


def seeing_bundle(folder: Path, name: str = "Tiny sees") -> Bundle:
    """Return the bundle of a random language model with LoRA on it, stitched to a random CLIP."""
    import torch

    pictures = write_pictures(folder / "asked", questions=True)
    model = tiny_stitch(write_clip(folder / "vision", TINY), write_language(folder / "language"), entry_layer=2)
    adapt_language(model, rank=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for key, parameter in model.model.named_parameters():
            if "lora_B" in key:  # or the adapter does nothing, and switching it off shows nothing
                torch.nn.init.normal_(parameter, std=0.5)
    rows = kit.load_rows(f"folder:{pictures}", split="train")
    return kit.save_bundle(folder / "seeing", model, name=name, data=(kit.data_use(rows),), measurements=MEASURED)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A CLIP's bundle."""
    return clip_bundle(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_seeing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A vision-language model's bundle."""
    return seeing_bundle(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="session")
def clip_demo(tiny_clip: Bundle) -> Iterator[Demo]:
    """The page of a CLIP, served in this process."""
    served = demo(tiny_clip, port=free_port())
    yield served
    served.close()


@pytest.fixture(scope="session")
def seeing_demo(tiny_seeing: Bundle) -> Iterator[Demo]:
    """The page of a vision-language model, served in this process."""
    served = demo(tiny_seeing, port=free_port(), device="cpu")
    yield served
    served.close()

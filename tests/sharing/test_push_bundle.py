"""A bundle goes to a stand-in of the Hub and comes back the same; nothing goes that must not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hub_stand_in import TOKEN, Hub, serving_hub
from huggingface_hub import ModelCard

from kit.adapters.bundle import Bundle, open_bundle
from kit.errors import BundleError
from kit.manifest import Base, Manifest, verify
from kit.sharing.hub_bundle import hub_card, stage
from kit.sharing.space import build_space

Kit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving_hub() as served:
        yield served


@pytest.fixture
def there(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Settings of huggingface_hub: the stand-in, a login of its own, a cache of its own."""
    return {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


OPEN = """
import sys, torch, kit
encoder = kit.open_bundle(sys.argv[1]).load()
again = kit.load_dual_encoder(sys.argv[1], device="cpu")
with torch.no_grad():
    tokens = encoder.tokenize(["a cat"])
    assert torch.equal(encoder.encode_text(tokens), again.encode_text(tokens))
    torch.save(encoder.encode_text(tokens), sys.argv[2])
"""


def test_it_comes_back_the_same(kit: Kit, there: dict[str, str], hub: Hub, tiny_clip: Bundle, tmp_path: Path) -> None:
    import os

    done = kit("push", tiny_clip.folder, "me/tiny", **there)
    assert done.returncode == 0, done.stderr
    assert "https://huggingface.co/me/tiny" in done.stdout
    assert set(hub.repositories["models", "me/tiny"]) == {*tiny_clip.manifest.files, "manifest.json", ".gitattributes"}
    words = [sys.executable, "-c", OPEN, "hf-bundle:me/tiny", str(tmp_path / "vectors")]
    done = subprocess.run(words, env={**os.environ, **there}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    encoder = tiny_clip.load()
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "vectors"), encoder.encode_text(encoder.tokenize(["a cat"])))
    words[3] = "hf-bundle:me/nothing"
    done = subprocess.run(words, env={**os.environ, **there}, capture_output=True, text=True)
    assert "the Hub shows no such model" in done.stderr


def test_open_clip_alone_opens_what_was_pushed(tiny_clip: Bundle, tmp_path: Path) -> None:
    import open_clip

    stage(tiny_clip, tmp_path, "me/tiny")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    own = tiny_clip.load().clip.state_dict()
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


def test_the_card_is_the_hubs(tiny_clip: Bundle, tmp_path: Path) -> None:
    stage(tiny_clip, tmp_path, "me/tiny")
    said = ModelCard.load(tmp_path / "README.md").data
    (result,) = said.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("recall_at_1", 0.5, "test")
    assert said.license == "other"
    text = (tmp_path / "README.md").read_text()
    assert 'kit.open_bundle("hf-bundle:me/tiny")' in text
    assert verify(tmp_path).parents == {tiny_clip.manifest.name: tiny_clip.manifest.digest()}
    assert tiny_clip.manifest.digest() in text


def test_bases_are_named_as_the_hub_knows_them() -> None:
    bases = (
        Base("minilm-l6", "a" * 64, origin="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (a wheel)"),
        Base("hf:HuggingFaceTB/SmolVLM-256M@main", "b" * 40),
    )
    data = (Base("hub:nlphuji/flickr30k@main", "c" * 40, "cc0-1.0", rows=9, split="train"),)
    text = hub_card(Manifest("vision-language", "It", bases, data), "me/it", command="kit run it")
    said = ModelCard(text).data
    assert said.base_model == ["sentence-transformers/all-MiniLM-L6-v2", "HuggingFaceTB/SmolVLM-256M"]
    assert said.base_model_relation == "adapter"
    assert said.datasets == ["nlphuji/flickr30k"]
    assert said.pipeline_tag == "image-text-to-text"
    assert "kit run it" in text


def test_a_space_goes_too(kit: Kit, there: dict[str, str], hub: Hub, tiny_clip: Bundle, tmp_path: Path) -> None:
    space = build_space(tiny_clip, tmp_path / "space")
    done = kit("space", "push", space, "me/page", **there)
    assert done.returncode == 0, done.stderr
    assert {"app.py", "README.md", "requirements.txt"} <= set(hub.repositories["spaces", "me/page"])


def test_what_hinders_is_told(kit: Kit, there: dict[str, str], tiny_clip: Bundle, tmp_path: Path) -> None:
    done = kit("push", tiny_clip.folder, "me/tiny", **{**there, "HF_TOKEN": ""})
    assert done.returncode == 2
    assert "hf auth login" in done.stderr
    done = kit("push", tiny_clip.folder, "me/tiny", **{**there, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    copy = shutil.copytree(tiny_clip.folder, tmp_path / "copy")
    (copy / "open_clip_config.json").write_text("{}")
    with pytest.raises(BundleError, match="differs from what was saved"):
        open_bundle(copy)
    assert "Traceback" not in done.stderr

"""Bundles of reward models: they score as they did, alone, or say what differs; and LoRA that is trained further."""

import subprocess
import sys

import pytest
import torch
from dual_encoders import noise_pictures
from safetensors.torch import save_file
from stitched_models import tiny_stitch

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.language import adapt_language, train_further
from kit.data.rows import Question
from kit.errors import BundleError, ModelError
from kit.manifest import read, write
from kit.models.activations import ActivationStore
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.reward import Reward, RewardTail

ONE, TWO = noise_pictures(2)
ROWS = [Question("a", ONE, "Which?", "red and blue"), Question("b", TWO, "What colour is it?", "teal")]

ALONE = """
from pathlib import Path
import kit
from kit.data.picture import Picture
from kit.data.rows import Question
rows = [
    Question("a", Picture.at(Path("0.png")), "Which?", "red and blue"),
    Question("b", Picture.at(Path("1.png")), "What colour is it?", "teal"),
]
print(*kit.open_bundle("reward").load(device="cpu").score(rows))
"""


def moved(model):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.fixture
def reward(tiny_vision, tiny_language, tmp_path):
    model = tiny_stitch(tiny_vision, tiny_language, entry_layer=2)
    adapt_language(model, rank=4)
    moved(model.model)
    cut = LanguageCut(model, ActivationStore(tmp_path / "store"))
    tail = RewardTail(LanguageTail(cut))
    moved(tail)
    return Reward(cut, tail.eval())


def test_it_scores_as_it_did_in_another_process_too(reward, tmp_path):
    wanted = reward.score(ROWS)
    assert abs(wanted[0] - wanted[1]) > 0.01
    saved = save_bundle(tmp_path / "reward", reward, name="What they like", parents={"parent": "0" * 64})
    again = open_bundle(saved.folder)
    assert (again.manifest.kind, again.manifest.parents) == ("reward", {"parent": "0" * 64})
    found = again.load(device="cpu")
    assert found.score(ROWS) == pytest.approx(wanted, abs=1e-5)
    assert not any(one.requires_grad for one in found.tail.parameters())
    for number, picture in enumerate((ONE, TWO)):
        (tmp_path / f"{number}.png").write_bytes(picture.read())
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [float(one) for one in done.stdout.split()] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert "model.best(" in (saved.folder / "README.md").read_text()


def test_a_changed_head_is_refused(reward, tmp_path):
    folder = save_bundle(tmp_path / "reward", reward, name="What they like").folder
    save_file({"weight": torch.zeros(3)}, folder / "reward.safetensors")
    with pytest.raises(BundleError, match=r"reward\.safetensors: differs from what was saved"):
        open_bundle(folder)
    write(folder, read(folder))
    with pytest.raises(BundleError, match=r"reward\.safetensors holds shape \(3,\)"):
        open_bundle(folder).load(device="cpu")


def test_what_a_bundle_brought_is_trained_further(reward, tmp_path):
    folder = save_bundle(tmp_path / "parent", reward.cut.model, name="Parent").folder
    model = train_further(open_bundle(folder).load(device="cpu"))
    trained = {name for name, one in model.model.named_parameters() if one.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert any("projector" in name for name in trained)
    assert all("lora_" in name or "projector" in name for name in trained)
    kept = train_further(open_bundle(folder).load(device="cpu"), projector=False)
    assert all("lora_" in name for name, one in kept.model.named_parameters() if one.requires_grad)


def test_nothing_to_train_further(tiny_vision, tiny_language):
    with pytest.raises(ModelError, match="has no LoRA to go on with"):
        train_further(tiny_stitch(tiny_vision, tiny_language, entry_layer=2))

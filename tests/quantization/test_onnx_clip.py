"""A CLIP's towers in int8: near their own vectors, smaller, quicker, and refused where they are neither."""

import dataclasses
import time

import pytest
import torch
from dual_encoders import TINY, noise_pictures, write_clip

from kit.adapters.bundle import save_bundle
from kit.data.rows import ImageText
from kit.errors import BundleError, DataError
from kit.models.load import load_dual_encoder
from kit.quantization.export import export_towers
from kit.quantization.onnx_clip import Likeness, likeness, open_onnx_clip, write_onnx_clip
from kit.quantization.sizes import disk_bytes

TEXTS = ["a red circle", "two dogs", "a house beside a river", "sun"] * 3


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    encoder = load_dual_encoder(f"local-dir:{write_clip(root / 'tiny', TINY)}", device="cpu")
    return save_bundle(root / "bundle", encoder, name="Tiny")


@pytest.fixture(scope="module")
def exported(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers") / "onnx"
    write_onnx_clip(folder, tiny_bundle.load(), noise_pictures(6), tiny_bundle)
    return folder


def test_towers_of_transformers_are_near_their_own(tiny_bundle, exported):
    encoder, copy = tiny_bundle.load(), open_onnx_clip(exported)
    pictures = noise_pictures(12)
    found = likeness(encoder, copy, pictures, TEXTS, pairs=False)
    assert 0.97 < found.image < 1 - 1e-7
    assert 0.97 < found.text < 1 - 1e-7
    assert found.faults() == []
    assert "open_onnx_clip(" in (exported / "README.md").read_text()
    assert torch.equal(copy.tokenize(TEXTS), encoder.tokenize(TEXTS))
    picture = pictures[0].open()
    assert torch.equal(copy.preprocess(picture), encoder.preprocess(picture))
    assert disk_bytes(exported) < 0.5 * disk_bytes(tiny_bundle.folder)


def test_what_was_changed_or_is_something_else_is_told(tiny_bundle, exported, tmp_path):
    with pytest.raises(BundleError, match="not exported towers"):
        open_onnx_clip(tiny_bundle.folder)
    with pytest.raises(DataError, match="there are no pictures"):
        write_onnx_clip(tmp_path / "x", tiny_bundle.load(), [], tiny_bundle)
    with pytest.raises(BundleError, match="which another library runs"):
        dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, kind="other")).load()


def test_tolerances_can_fail():
    assert Likeness(0.99, 0.98, 0.5).faults() == []
    assert len(Likeness(0.9, float("nan"), 1.5).faults()) == 3


@pytest.mark.weights
def test_convolutions_are_calibrated_and_quicker(stitched, tmp_path):
    bundle = save_bundle(tmp_path / "bundle", stitched, name="Stitched")
    write_onnx_clip(tmp_path / "onnx", stitched, noise_pictures(16, size=200), bundle)
    copy, pictures = open_onnx_clip(tmp_path / "onnx", threads=1), noise_pictures(24, size=180)[16:]
    found = likeness(stitched, copy, pictures, TEXTS, pairs=False)
    assert found.faults() == []
    assert disk_bytes(tmp_path / "onnx") < 0.33 * disk_bytes(bundle.folder)
    pixels = torch.stack([stitched.preprocess(one.open()) for one in pictures])
    taken = {"own": [], "copy": []}
    with torch.no_grad():
        for _ in range(4):
            for name, encoder in (("own", stitched), ("copy", copy)):
                begin = time.process_time()  # and not the seconds that other processes take meanwhile
                encoder.encode_image(pixels)
                taken[name].append(time.process_time() - begin)
    assert min(taken["own"]) > 1.5 * min(taken["copy"])


def test_towers_are_kept_only_where_they_find_what_the_bundles_find(tiny_bundle, tmp_path, monkeypatch):
    rows = [ImageText(str(n), one, f"noise number {n}") for n, one in enumerate(noise_pictures(14))]
    folder, found = export_towers(tiny_bundle, tmp_path / "kept", rows[:6], rows[6:])
    # Eight pairs of a random model: one more or less found is twelve points.
    assert found.points is not None
    assert (folder is None) == bool(found.faults())
    monkeypatch.setattr(Likeness, "faults", lambda _: ["too far"])
    assert export_towers(tiny_bundle, tmp_path / "lost", rows[:6], rows[6:])[0] is None
    assert not (tmp_path / "lost").exists()
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        export_towers(tiny_bundle, tmp_path / "taken", rows, rows)

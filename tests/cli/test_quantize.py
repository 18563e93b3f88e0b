"""``kit quantize`` on a tiny bundle: what it shows, what it refuses, and what it leaves."""

import re

import pytest
from dual_encoders import TINY, write_clip
from safetensors.torch import load_file, save_file
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.language import adapt_language


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("quantize")
    language = write_language(root / "llama", intermediate_size=128)
    model = tiny_stitch(write_clip(root / "clip", TINY), language, entry_layer=2)
    adapt_language(model, rank=2)
    for parameter in model.language.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02
    return save_bundle(root / "seeing", model, name="Seeing")


def test_a_copy_with_coverage_parity_and_size(kit, bundle, tmp_path):
    done = kit("quantize", bundle, "--backend", "torchao", "--to", "int8", "--out", "small", "--floats", "float32")
    assert done.returncode == 0, done.stderr
    assert re.search(r"model.layers.mlp.down_proj +4 +32,768 +int8", done.stdout)
    assert "embedding or head: stays in high precision" in done.stdout
    assert done.stdout.count("pass") == 4
    assert "small: 0." in done.stdout
    saved = open_bundle(tmp_path / "small")
    assert saved.manifest.parents == {"Seeing": bundle.manifest.digest()}
    assert saved.load(device="cpu").language is not None


def test_a_budget_that_is_too_small_names_what_fits(kit, bundle, tmp_path):
    done = kit("quantize", bundle, "--to", "int8", "--max-mb", "0.2", "--floats", "float32", "--out", "small")
    assert done.returncode == 2
    assert "bitsandbytes-int8 takes 0.2" in done.stderr
    assert "Would fit: bitsandbytes-nf4" in done.stderr
    assert "Fix: --backend bitsandbytes --to nf4" in done.stderr
    assert not (tmp_path / "small").exists()


@pytest.fixture(scope="module")
def outliers(tmp_path_factory):
    """A model of the same answers, whose matrices each have one huge column, as large language models have."""
    root = tmp_path_factory.mktemp("outliers")
    folder = write_language(root / "llama", intermediate_size=128)
    state = load_file(folder / "model.safetensors")
    for name, tensor in state.items():
        if name.endswith("layernorm.weight"):
            tensor[0] /= 3000
        elif name.split(".")[-2] in {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}:
            tensor[:, 0] *= 3000
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model = tiny_stitch(write_clip(root / "clip", TINY), folder, entry_layer=2)
    return save_bundle(root / "outliers", model, name="Outliers")


def test_a_copy_that_is_another_model_is_not_written(kit, outliers, tmp_path):
    done = kit("quantize", outliers, "--to", "int8", "--out", "small")
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout
    assert re.search(r"parity: agreement: is 0\.\d+, at least 0.88 is allowed; worst at token \d+ of '", done.stderr)
    assert "It broke in layer 0: hidden states" in done.stderr
    assert "Nothing was written." in done.stderr
    assert not (tmp_path / "small").exists()

"""Copies of bundles on a model of the Hub: merged, quantised, saved whole, opened by kit and by transformers alone."""

import pytest
import torch
from tiny_models import tiny_folders

from kit.adapters.bundle import save_bundle
from kit.adapters.language import adapt_towers
from kit.errors import BundleError
from kit.models.backends import held_as
from kit.models.load_vision_language import load_vision_language
from kit.quantization.copies import merged, quantised, save_copy
from kit.quantization.export import export
from kit.quantization.hub_copies import open_hub_copy
from kit.quantization.parity import logits_of
from kit.quantization.probes import fixed_probes
from kit.quantization.served import open_export

__all__ = ["tiny_folders"]
PROBES = fixed_probes()[::10]


@pytest.fixture(scope="module")
def seeing(tiny_folders, tmp_path_factory):
    model = load_vision_language(f"local-dir:{tiny_folders('smolvlm')}", device="cpu", dtype="float32")
    adapt_towers(model, rank=2)
    generator = torch.Generator().manual_seed(1)
    for one in model.model.parameters():
        if one.requires_grad:
            one.data += torch.randn(one.shape, generator=generator) * 0.2
    return save_bundle(tmp_path_factory.mktemp("hub") / "seeing", model, name="Seeing")


def logits(model):
    return torch.cat([logits_of(model)(probe) for probe in PROBES])


def test_merging_is_exact_and_leaves_no_adapter(seeing):
    whole = merged(seeing)
    assert not [name for name, _ in whole.model.named_parameters() if "lora" in name]
    torch.testing.assert_close(logits(whole), logits(seeing.load(device="cpu")), rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["bfloat16", "bitsandbytes-int8", "bitsandbytes-nf4", "torchao-int8"])
def test_a_copy_is_opened_as_it_was(seeing, tmp_path, backend):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    whole = merged(seeing)
    copy = quantised(whole, backend, dtype="float32")
    assert held_as(copy.model.language) == backend.rpartition("-")[2]
    expected = logits(copy.model)
    assert 1e-4 < (expected - logits(whole)).abs().max() < 1
    saved = save_copy(tmp_path / "copy", copy, seeing)
    assert torch.equal(logits(copy.model), expected)
    assert torch.equal(logits(open_export(saved.folder)), expected)
    assert saved.manifest.parents == {"Seeing": seeing.manifest.digest()}
    AutoProcessor.from_pretrained(saved.folder)
    assert AutoModelForImageTextToText.from_pretrained(saved.folder).config.model_type == "smolvlm"
    assert "AutoModelForImageTextToText" in (saved.folder / "README.md").read_text()
    with pytest.raises(BundleError, match="is there already"):
        save_copy(tmp_path / "copy", copy, seeing)
    with pytest.raises(BundleError, match="no copy of a Hub model"):
        open_hub_copy(seeing.folder)


def test_it_is_exported_to_safetensors_and_refused_by_what_holds_stitched_models(seeing, tmp_path):
    found = export(seeing, "safetensors", tmp_path / "whole")
    assert found.folder is not None, found.gate
    assert 0 < found.gate.max_logit < 1
    assert open_export(found.folder).language.dtype == torch.bfloat16
    for to in ("onnx", "gguf"):
        with pytest.raises(BundleError, match=f"only stitched ones are written as {to}"):
            export(seeing, to, tmp_path / to)
        assert not (tmp_path / to).exists()

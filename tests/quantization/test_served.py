"""What a demo opens: a bundle by either runtime, an export by its own, and one clear error for the rest."""

import pytest
import torch

from kit.errors import BundleError
from kit.models.chat import answer
from kit.models.vision_language import VisionLanguage
from kit.quantization.export import export
from kit.quantization.parity import TOLERANCES, Parity, logits_of
from kit.quantization.probes import fixed_probes
from kit.quantization.served import open_export, served
from kit.quantization.speed import folder_weight

PROBE = fixed_probes()[0]


def test_a_bundle_is_exported_once_and_asked_as_before(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    by_torch, by_onnx = served(bundle.folder, "torch"), served(bundle.folder, "onnx")
    assert "once" in capsys.readouterr().out
    assert isinstance(by_onnx, VisionLanguage)
    expected, found = logits_of(by_torch)(PROBE), logits_of(by_onnx)(PROBE)
    assert 1e-4 < (expected - found).abs().max() < 0.2
    assert len(answer(by_onnx, [PROBE.picture], ["What?"], max_new_tokens=2)) == 1
    (kept,) = (tmp_path / "exports").iterdir()
    weight = folder_weight(kept, peak=False)
    assert 0 < weight["mb"].value < weight["disk_mb"].value
    assert torch.equal(logits_of(served(bundle.folder))(PROBE), found)
    assert capsys.readouterr().out == ""
    for runtime in ("onnx", "torch"):
        assert torch.equal(logits_of(served(kept, runtime))(PROBE), found)
    weights = kept / "above.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=r"above\.onnx\.data"):
        served(bundle.folder)


def test_a_copy_that_is_no_longer_the_model_is_not_served(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    monkeypatch.setattr(Parity, "faults", lambda self, tolerance, where="": TOLERANCES["int8"] and [_fault()])
    with pytest.raises(BundleError, match="too far"):
        served(bundle.folder)
    assert not list((tmp_path / "exports").iterdir())


def _fault():
    from kit.errors import Fault

    return Fault("gate", "too far")


def test_what_cannot_be_served_is_told(bundle, tmp_path):
    with pytest.raises(BundleError, match=r"'onyx' is unknown. Did you mean 'onnx'"):
        served(bundle.folder, "onyx")
    with pytest.raises(BundleError, match=r"is no bundle"):
        served(tmp_path)
    text = export(bundle, "gguf", tmp_path / "gguf").folder
    with pytest.raises(BundleError, match="holds the text part alone"):
        open_export(text)

"""A demo's models in 8 bits by onnxruntime: the same page, the same answers as that runtime gives elsewhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from dual_encoders import noise_pictures
from free_ports import free_port
from gradio_client import handle_file
from small_bundles import program

from kit.adapters.bundle import Bundle
from kit.data.rows import Message
from kit.errors import BundleError
from kit.models.chat import answer
from kit.quantization.export import export
from kit.quantization.onnx_clip import open_onnx_clip, write_onnx_clip
from kit.quantization.parity import Parity
from kit.quantization.served import open_export
from kit.sharing.demo import demo
from kit.sharing.finding import picture_encoder
from kit.sharing.talking import Talker


def test_answers_come_word_by_word_and_can_be_stopped(
    tiny_seeing: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parity, "faults", lambda *_, **__: [])
    folder = export(tiny_seeing, "onnx", tmp_path / "onnx").folder
    model = open_export(folder)
    talker = Talker(model, "it")
    said = list(talker.answer(None, [Message("user", "what is it?")], tokens=24))
    assert len(said) > 3, "it did not come piece by piece"
    assert said[-1].strip() == answer(model, [None], ["what is it?"], max_new_tokens=24)[0]
    assert not talker.has_adapter
    begun = talker.answer(None, [Message("user", "what is it?")], tokens=200)
    next(begun)
    begun.close()
    assert talker._busy.acquire(blocking=False), "it goes on generating"


def test_towers_in_8_bits_find_and_label(tiny_clip: Bundle, tmp_path: Path) -> None:
    encoder, pictures = tiny_clip.load(), noise_pictures(5)
    write_onnx_clip(tmp_path / "onnx", encoder, pictures, tiny_clip)
    copy = open_onnx_clip(tmp_path / "onnx")
    assert math.isclose(float(copy.clip.logit_scale), float(encoder.clip.logit_scale.detach()), rel_tol=1e-6)
    found, right = picture_encoder(copy)(pictures), picture_encoder(encoder)(pictures)
    assert 0.97 < float(torch.nn.functional.cosine_similarity(found, right).min()) < 1 - 1e-7


def test_the_page_is_served_by_it(tiny_clip: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    monkeypatch.setattr("kit.quantization.onnx_clip.Likeness.faults", lambda *_, **__: [])
    served = demo(tiny_clip, port=free_port(), runtime="onnx")
    try:
        picture = Path(tiny_clip.manifest.data[0].source.removeprefix("folder:")) / "0.png"
        client = program(served)
        said = client.predict(handle_file(picture), "cat, dog, tree", api_name="/label")
        assert sum(one["confidence"] for one in said["confidences"]) == pytest.approx(1)
        (found,) = client.predict("a red thing", "en", False, 3, api_name="/search")
        assert len(found) == 3
    finally:
        served.close()
    assert len(list((tmp_path / "exports").iterdir())) == 1


def test_an_unknown_runtime_is_told(tiny_clip: Bundle) -> None:
    with pytest.raises(BundleError, match=r"'onyx' is unknown. Did you mean 'onnx'"):
        demo(tiny_clip, port=free_port(), runtime="onyx")

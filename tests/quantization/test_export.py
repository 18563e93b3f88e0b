"""Exports: opened by the other library alone, equal to the bundle, and not kept where they are not."""

import json

import numpy as np
import pytest
import torch
from adapted_models import adapted
from PIL import Image
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.llama_adapter import add_llama_adapter
from kit.data.picture import Picture
from kit.data.prose import load_prose
from kit.errors import BundleError, ModelError
from kit.models.chat import answer
from kit.models.language import load_language
from kit.quantization.copies import merged
from kit.quantization.export import export, write_onnx
from kit.quantization.moments import text_moments
from kit.quantization.onnx_graph import FLOATS, MIXED, write_layers
from kit.quantization.parity import logits_of, parity
from kit.quantization.probes import fixed_probes
from kit.quantization.rounding import BLOCK, quantise_4
from kit.quantization.runtime import OnnxLayers, open_runtime
from kit.quantization.sizes import disk_bytes
from kit.quantization.speed import TorchRunner

PROBES = fixed_probes()


@pytest.mark.parametrize(("tied", "evened"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("entry", [0, 2])
def test_float_graphs_are_the_model_and_their_cache_is_its_cache(tmp_path, entry, tied, evened):
    folder = write_language(
        tmp_path / "llama", intermediate_size=128, max_position_embeddings=512, tie_word_embeddings=tied
    )
    language, words = load_language(f"local-dir:{folder}")
    read = text_moments(language, words, load_prose(limit=2, words=40)) if evened else {}
    halves = []
    for number, (kept, head) in enumerate([(slice(0, entry), False), (slice(entry, None), True)]):
        if number or entry:
            path = tmp_path / f"{number}.onnx"
            write_layers(language, kept, path, bits=FLOATS, head_bits=0, head=head, moments=read)
            halves.append(OnnxLayers(path, layers=entry if not number else 4 - entry, heads=2, size=16))
    ids = torch.randint(4, 200, (1, 300), generator=torch.Generator().manual_seed(0))
    expected = language(input_ids=ids).logits[0].detach().numpy()
    hidden = language.get_input_embeddings()(ids)[0].detach().numpy()
    found = []
    for part in (slice(0, 250), *(slice(place, place + 1) for place in range(250, 300))):  # the cache grows at 256
        out = hidden[part]
        for half in halves:
            out = half(out)
        found.append(out)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)
    for half in halves:
        half.reset()
    out = hidden[:7]
    for half in halves:
        out = half(out) if half.asks is False else half(out, np.array([6]))
    np.testing.assert_allclose(out[0], expected[6], atol=2e-5)


def test_four_bits_are_multiplied_as_they_were_packed(tmp_path, language):
    model, _ = load_language(f"local-dir:{language}")
    write_layers(model, slice(0, None), tmp_path / "mixed.onnx", bits=MIXED)
    mixed = OnnxLayers(tmp_path / "mixed.onnx", layers=4, heads=2, size=16)
    for layer in model.model.layers:
        for matrix in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
            packed, scales, zeros = quantise_4(matrix)
            numbers = np.stack([packed & 15, packed >> 4], -1).reshape(*scales.shape, BLOCK)
            zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(*scales.shape)
            back = (numbers.astype(np.float32) - zeros[..., None]) * scales[..., None]
            matrix.data = torch.from_numpy(back.reshape(matrix.shape))
    ids = torch.arange(5, 25)[None]
    found = mixed(model.get_input_embeddings()(ids)[0].detach().numpy())
    np.testing.assert_allclose(found, model(input_ids=ids).logits[0].detach().numpy(), atol=0.06)


@pytest.fixture(scope="module")
def exported(bundle, tmp_path_factory):
    return export(bundle, "onnx", tmp_path_factory.mktemp("exports") / "onnx")


def test_an_int8_export_passes_its_gate_with_pictures_and_without(bundle, exported):
    assert exported.folder is not None, exported.gate.rows(exported.tolerance)
    again = open_runtime(exported.folder)
    for probes in (PROBES[:4], PROBES[12:16]):
        found = parity(logits_of(merged(bundle)), logits_of(again), probes)
        assert 1e-4 < found.max_logit < 0.2
    said = json.loads((exported.folder / "manifest.json").read_text())
    assert said["parents"] == {"Seeing": bundle.manifest.digest()}
    card = (exported.folder / "README.md").read_text()
    assert "library_name: onnxruntime" in card
    assert "open_runtime(" in card
    assert all(base.source in card for base in bundle.manifest.bases)
    with pytest.raises(BundleError, match="which another library runs"):
        open_bundle(exported.folder).load()
    with pytest.raises(BundleError, match="not an export to ONNX"):
        open_runtime(bundle.folder)


def test_it_answers_as_the_model_does(bundle, exported, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    pictures = [Picture.at(tmp_path / "red.png"), None, Picture.at(tmp_path / "red.png")]
    questions = ["What colour?", "Why is the sky blue?", "Which?"]
    model, again = merged(bundle), open_runtime(exported.folder)
    prompts = again.model.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=4
    )  # without a mask, as transformers allows it
    assert prompts.shape == (1, 7)
    # Random models' likeliest tokens are all but tied: the first token is compared by its logits, the rest by form.
    assert len(answer(again, pictures, questions, max_new_tokens=4)) == 3
    logits = logits_of(model)(PROBES[0])[0], logits_of(again)(PROBES[0])[0]
    assert (logits[0] - logits[1]).abs().max() < 0.2
    runner, language = TorchRunner(model.language), again.model.language_model
    assert isinstance(language.start([5, 6, 7]), int)
    assert isinstance(language.go_on(5), int)
    assert isinstance(runner.start([5, 6, 7]), int)


def test_one_table_serves_embedding_and_head(tiny_vision, tmp_path, bundle, exported):
    rows = open_runtime(exported.folder).model.language_model.rows
    table = merged(bundle).language.get_input_embeddings().weight.detach()
    np.testing.assert_allclose(rows(np.array([3, 200, 3])), table[[3, 200, 3]].numpy(), atol=2e-3)
    assert not (exported.folder / "embedding.data").exists()
    language = write_language(tmp_path / "untied", intermediate_size=128, tie_word_embeddings=False)
    model = tiny_stitch(tiny_vision, language, entry_layer=0)
    untied = save_bundle(tmp_path / "bundle", model, name="Untied")
    found = export(untied, "onnx", tmp_path / "onnx")
    assert found.folder is not None, found.gate
    assert (found.folder / "embedding.data").exists()
    assert not (found.folder / "below.onnx").exists()


def test_a_merged_export_in_safetensors_is_opened_by_transformers_alone(bundle, tmp_path):
    found = export(bundle, "safetensors", tmp_path / "merged")
    assert found.folder is not None
    assert found.gate.max_logit > 0
    assert open_bundle(found.folder).load(device="cpu").language.dtype == torch.bfloat16
    assert disk_bytes(found.folder / "language") > 0


def test_what_is_no_longer_the_model_is_not_kept(bundle, tmp_path, monkeypatch):
    def scrambled(folder, model, parent, *, bits=8, moments=None):
        for layer in model.language.model.layers:
            layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data.flip(0)
        write_onnx(folder, model, parent, bits=bits, moments=moments)
        for layer in model.language.model.layers:
            layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data.flip(0)

    monkeypatch.setattr("kit.quantization.export.write_onnx", scrambled)
    found = export(bundle, "onnx", tmp_path / "broken")
    assert found.folder is None
    assert found.gate.faults(found.tolerance)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(bundle, tiny_vision, language, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        export(bundle, "onnx", tmp_path / "taken")
    model = tiny_stitch(tiny_vision, language, prompted=True)
    add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
    prompts = save_bundle(tmp_path / "prompts", model, name="Prompts")
    with pytest.raises(ModelError, match="sees by adaption prompts"):
        export(prompts, "onnx", tmp_path / "out")
    assert adapted is not None

"""Adapters trained on a quantised base (QLoRA), and language towers that travel inside their bundle."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from stitched_models import tiny_stitch, write_language
from tiny_models import load_tiny

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.language import adapt_language, adapt_towers
from kit.adapters.llama_adapter import add_llama_adapter
from kit.data.picture import Picture
from kit.data.rows import Conversation, Message, Question
from kit.errors import BundleError
from kit.models.activations import ActivationStore
from kit.models.backends import held_as
from kit.models.chat import Chat
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.packed_answers import PackedAnswers
from kit.training.fit import fit
from kit.training.tail_loss import TailLoss

LOW = ["bitsandbytes-int8", "bitsandbytes-nf4", "torchao-int8"]
COLOURS = ["red", "blue", "green", "yellow"]


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    return write_language(tmp_path_factory.mktemp("quantised") / "llama", intermediate_size=128)


@torch.no_grad()
def logits(model):
    processor = model.processor
    seen = processor(text=[f"{processor.image_token}What colour?"], images=[Image.new("RGB", (40, 30), "red")])
    seen = {name: torch.as_tensor(np.array(values)) for name, values in seen.items()}
    return model.model.eval()(**seen).logits


def rows_in(folder):
    folder.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (32, 32), colour).save(folder / f"{colour}.png")
    return [
        Question(one, Picture.at(folder / f"{one}.png"), "What colour?", one, answers=tuple(COLOURS)) for one in COLOURS
    ]


def trained(vision, language, store, backend):
    rows = rows_in(store)
    model = tiny_stitch(vision, language, entry_layer=2, backend=backend)
    adapt_language(model, rank=8)
    cut = LanguageCut(model, ActivationStore(store / "kept"))
    packs = cut.packs(rows)
    model.projector.calibrate(packs.features.all())
    tail = LanguageTail(cut)
    assert not tail.quick
    found = fit(tail, TailLoss(), [packs], steps=60, batch_size=4, lr=0.01, weight_decay=0.0)
    assert found.losses[-1] < found.losses[0] - 1.5
    answers = PackedAnswers(cut, tail, candidates=tuple(COLOURS))
    assert answers([row.picture for row in rows], ["What colour?"] * 4) == COLOURS
    return model


@pytest.mark.parametrize("backend", LOW)
def test_lora_learns_on_a_quantised_base_and_the_bundle_gives_identical_outputs(
    tiny_vision, language, tmp_path, backend
):
    model = trained(tiny_vision, language, tmp_path / "store", backend)
    before = logits(model)
    bundle = save_bundle(tmp_path / "bundle", model, name="QLoRA")
    assert torch.equal(logits(model), before)
    again = open_bundle(bundle.folder).load(device="cpu")
    assert held_as(again.language) == held_as(model.language) != "float32"
    assert torch.equal(logits(again), before)
    on_floats = bundle.load(device="cpu", backend="")
    assert held_as(on_floats.language) == "float32"
    assert (logits(on_floats) - before).abs().max() > 0
    assert backend in (bundle.folder / "README.md").read_text()
    said = json.loads((bundle.folder / "vision_language.json").read_text())
    assert (said["layout"], said["backend"], said["whole"]) == (2, backend, False)


@pytest.mark.parametrize("backend", ["", *LOW])
@pytest.mark.parametrize("prompted", [False, True])
def test_a_whole_bundle_needs_no_language_base(tiny_vision, tmp_path, backend, prompted):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = write_language(tmp_path / "base", intermediate_size=128)
    model = tiny_stitch(tiny_vision, base, backend=backend, **({"prompted": True} if prompted else {}))
    if prompted:
        add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
        for name, one in model.language.named_parameters():
            if "self_attn" in name and one.requires_grad:
                one.data += 0.1
    before = logits(model)
    bundle = save_bundle(tmp_path / "bundle", model, name="Whole", whole=True, parents={"parent": "0" * 64})
    assert torch.equal(logits(model), before)
    (base / "model.safetensors").unlink()
    again = open_bundle(bundle.folder).load(device="cpu")
    assert torch.equal(logits(again), before)
    assert held_as(again.language) == held_as(model.language)
    alone = AutoModelForCausalLM.from_pretrained(bundle.folder / "language").eval()
    AutoTokenizer.from_pretrained(bundle.folder / "language")
    ids = torch.arange(4, 12)[None]
    if not prompted:
        assert torch.equal(alone(input_ids=ids).logits, model.language(input_ids=ids).logits)
    assert "transformers alone opens it" in (bundle.folder / "README.md").read_text()


def test_what_cannot_be_is_told(tiny_vision, language, tmp_path):
    model = tiny_stitch(tiny_vision, language, backend="torchao-int8")
    whole = save_bundle(tmp_path / "whole", model, name="W", whole=True)
    with pytest.raises(BundleError, match="quantised by torchao-int8, and what that lost does not come back"):
        whole.load(device="cpu", backend="float32")
    adapt_language(model, rank=2)
    with pytest.raises(BundleError, match="has LoRA on its language tower, which would be left out"):
        save_bundle(tmp_path / "lora", model, name="L", whole=True)
    assert not (tmp_path / "lora").exists()


def test_a_plain_bundle_is_what_older_kits_read(tiny_vision, language, tmp_path):
    bundle = save_bundle(tmp_path / "plain", tiny_stitch(tiny_vision, language), name="P")
    said = json.loads((bundle.folder / "vision_language.json").read_text())
    assert said["layout"] == 1
    assert not {"backend", "whole"} & said.keys()
    assert held_as(bundle.load(device="cpu", backend="bitsandbytes-nf4").language) == "nf4"


@pytest.mark.parametrize("backend", LOW)
@pytest.mark.parametrize("architecture", ["llava", "qwen3_vl", "smolvlm"])
def test_lora_on_a_quantised_model_of_the_hub_gives_identical_outputs(tiny_folders, tmp_path, architecture, backend):
    model = load_tiny(tiny_folders(architecture), backend=backend, dtype="float32")
    adapt_towers(model, rank=2)
    chat, row = Chat.of(model), Conversation("x", None, (Message("user", "Why?"), Message("assistant", "So.")))
    batch = chat.batch([row])
    model.model.train()(**batch).loss.backward()
    for one in model.model.parameters():
        if one.requires_grad:
            assert one.grad is not None
            one.data -= 0.5 * one.grad + 0.01
    with torch.no_grad():
        before = model.model.eval()(**batch).logits
        bundle = save_bundle(tmp_path / "bundle", model, name="QLoRA")
        assert torch.equal(model.model(**batch).logits, before)
        again = open_bundle(bundle.folder).load(device="cpu")
        assert torch.equal(again.model(**batch).logits, before)
        assert held_as(again.language) == held_as(model.language) != "float32"
        assert held_as(bundle.load(device="cpu", backend="").language) == "float32"

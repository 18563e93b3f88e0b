"""Quantised language models: they do what they say, reload as they were, and nothing scrambles them."""

import importlib.util
import random

import pytest
import torch
from stitched_models import tiny_stitch, write_language
from tiny_models import TINY, load_tiny
from torch import nn

from kit.adapters.lora import add_lora
from kit.errors import ModelError
from kit.models.backends import (
    BACKENDS,
    backend_of,
    check_coverage,
    coverage,
    find_backend,
    held_as,
    inner_tensors,
    slowness,
    steady,
)
from kit.models.dual_encoder import weights_digest
from kit.models.language import load_language

LOW = ["bitsandbytes-int8", "bitsandbytes-nf4", "torchao-int8"]
IDS = torch.arange(5, 25)[None]
TARGETS = ("q_proj", "v_proj", "down_proj")
MATRICES = 4 * 64 * (64 + 32 + 32 + 64 + 3 * 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # 128, because bitsandbytes' fused path, which the guard is against, takes multiples of 64 only.
    return write_language(tmp_path_factory.mktemp("backends") / "llama", intermediate_size=128)


@pytest.fixture(scope="module")
def wide(folder):
    return load_language(f"local-dir:{folder}")[0]


def load(folder, backend, **options):
    return load_language(f"local-dir:{folder}", backend=backend, **options)[0]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("name", LOW)
def test_a_quantised_model_is_smaller_and_nearly_the_same(folder, wide, name):
    model = load(folder, name)
    assert held_as(model) == BACKENDS[name].to
    assert backend_of(model) == name
    moved = (logits(model) - logits(wide)).abs().max()
    assert 1e-4 < moved < (1.5 if name.endswith("nf4") else 0.1)
    held = sum(
        part.numel() * part.element_size() for one in model.state_dict().values() for _, part in inner_tensors("", one)
    )
    full = sum(tensor.numel() * 4 for tensor in wide.state_dict().values())
    assert held < full - MATRICES * (2.5 if name.endswith("int8") else 3)


@pytest.mark.parametrize("name", LOW)
def test_it_is_saved_and_opened_by_transformers_alone_and_by_kit_to_the_last_bit(folder, tmp_path, name):
    from transformers import AutoModelForCausalLM

    model = load(folder, name)
    before = logits(model)
    model.save_pretrained(tmp_path)
    load_language(f"local-dir:{folder}")[1].save_pretrained(tmp_path)
    assert torch.equal(logits(model), before)
    again = load_language(f"local-dir:{tmp_path}")[0]
    assert torch.equal(logits(again), before)
    assert backend_of(again) == name
    assert weights_digest(again) == weights_digest(model)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(alone(input_ids=IDS).logits, before)  # with gradients, bitsandbytes' other path is not taken


@pytest.mark.parametrize("name", LOW)
def test_coverage_says_what_was_quantised_and_why_the_rest_was_not(folder, name):
    found = {one.module: one for one in coverage(load(folder, name))}
    quantised = {one.module.rpartition(".")[2] for one in found.values() if not one.why}
    assert quantised == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert sum(one.parameters for one in found.values() if not one.why) == MATRICES
    assert found["model.layers.mlp.down_proj"].count == 4
    assert found["lm_head"].to == "float32"
    assert "high precision" in found["lm_head"].why


def test_coverage_of_a_plain_model_and_of_one_with_adapters(folder, wide):
    assert not any(one.why for one in coverage(wide))
    assert slowness(wide) == 1.0
    assert backend_of(wide) == ""
    bare = coverage(load(folder, "torchao-int8"))
    assert coverage(add_lora(load(folder, "torchao-int8"), targets=TARGETS)) == bare


def test_what_a_library_skips_in_silence_is_a_fault(folder):
    model = load(folder, "torchao-int8")
    for layer in model.model.layers[:2]:
        layer.mlp.up_proj = nn.Linear(64, 128)
    with pytest.raises(ModelError, match=r"torchao-int8: model.layers.mlp.up_proj: was skipped in silence: width 64"):
        check_coverage(model, BACKENDS["torchao-int8"])


def test_unknown_missing_and_homeless_backends_are_told(folder, monkeypatch):
    with pytest.raises(ModelError, match=r"'bitsandbytes-nf5' is unknown. Did you mean 'bitsandbytes-nf4'"):
        load(folder, "bitsandbytes-nf5")
    with pytest.raises(ModelError, match="torchao-int4: has no kernels for cpu, only for cuda"):
        load(folder, "torchao-int4")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    with pytest.raises(ModelError, match=r"needs the package bitsandbytes\n  Fix: pip install 'multimodal-kit\[quant"):
        load(folder, "bitsandbytes-int8")
    assert find_backend("bfloat16").missing() is None


def test_floats_are_backends_too(folder, wide):
    model = load(folder, "bfloat16")
    assert model.dtype == torch.bfloat16
    assert held_as(model) == "bfloat16"
    assert (logits(model).float() - logits(wide)).abs().max() < 0.1


@pytest.mark.parametrize("name", LOW)
def test_slowness_is_a_ratio_of_one_layer_to_a_float_one(folder, name):
    assert 0 < slowness(load(folder, name), seconds=0.01) < 50


class Life:
    """A model that is evaluated, saved, loaded, trained and merged in any order, and what it must be after each."""

    def __init__(self, folder, backend, tmp_path):
        self.folder, self.backend, self.tmp_path = folder, backend, tmp_path
        self.model = add_lora(load(folder, backend), targets=TARGETS, rank=4)
        self.expected = logits(self.model)

    def evaluate(self):
        return logits(self.model)

    def save(self):
        self.model.save_pretrained(self.tmp_path / "adapter", save_embedding_layers=False)
        self.model.get_base_model().state_dict()
        self.model.state_dict()

    def load(self):
        from peft import PeftModel

        self.save()
        self.model = PeftModel.from_pretrained(
            load(self.folder, self.backend), self.tmp_path / "adapter", is_trainable=True
        )

    def train(self):
        changing = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.model.train()
        self.model(input_ids=IDS, labels=IDS).loss.backward()
        assert changing
        for parameter in changing:
            assert parameter.grad is not None
            parameter.data -= 0.05 * parameter.grad
            parameter.grad = None
        self.expected = logits(self.model)

    def merge(self):
        # Through the float base, as kit does it: the quantised model must not notice.
        from peft import PeftModel

        self.save()
        merged = PeftModel.from_pretrained(load(self.folder, "float32"), self.tmp_path / "adapter").merge_and_unload()
        assert torch.isfinite(logits(merged)).all()

    def check(self, step):
        getattr(self, step)()
        assert torch.equal(logits(self.model), self.expected), step


STEPS = ("evaluate", "save", "load", "train", "merge")


@pytest.mark.parametrize("name", LOW)
def test_evaluate_save_load_train_and_merge_in_any_order(folder, tmp_path, name):
    for seed in range(4):
        draw, life = random.Random(seed), Life(folder, name, tmp_path)
        for step in draw.choices(STEPS, k=8):
            life.check(step)


@pytest.mark.soak
def test_two_hundred_orders_over_every_backend(folder, tmp_path):
    names = ["float32", "bfloat16", *LOW]
    for seed in range(200):
        draw, life = random.Random(1000 + seed), Life(folder, names[seed % len(names)], tmp_path)
        for step in draw.choices(STEPS, k=8):
            life.check(step)


def test_without_the_guard_nf4_is_scrambled(folder, tmp_path, monkeypatch):
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("bitsandbytes' faulty path is taken on processors with AVX512-BF16 only")
    monkeypatch.setattr("kit.models.language.steady", lambda model: 0)
    life = Life(folder, "bitsandbytes-nf4", tmp_path)
    with pytest.raises(ModelError, match="may be scrambled"):
        steady(life.model)
    with pytest.raises(AssertionError, match="save"):
        life.check("save")


def test_a_stitched_model_has_only_its_language_tower_quantised(folder, tiny_vision):
    model = tiny_stitch(tiny_vision, folder, backend="bitsandbytes-nf4", entry_layer=2)
    assert held_as(model.language) == "nf4"
    assert backend_of(model.vision) == backend_of(model.projector) == ""
    assert "quantization_config" not in model.model.config.language


@pytest.mark.parametrize("architecture", sorted(TINY))
@pytest.mark.parametrize("name", LOW)
def test_of_the_hubs_models_the_language_towers_layers_are_quantised_and_nothing_else(tiny_folders, architecture, name):
    model = load_tiny(tiny_folders(architecture), backend=name)
    low = {path for path, module in model.model.named_modules() if backend_of(module) and not [*module.children()]}
    inside = {id(module) for module in model.language.modules()}
    assert len(low) == 2 * 7
    assert all(id(model.model.get_submodule(path)) in inside for path in low)
    assert backend_of(model.vision) == backend_of(model.projector) == ""

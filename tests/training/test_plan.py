"""The memory estimate against what training takes, and against what autograd keeps."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import load_tiny
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from kit.errors import ModelError
from kit.training import plan
from kit.training.fit import fit
from kit.training.plan import Estimate, Load, estimate, require_memory
from kit.training.recompute import recompute_activations
from kit.training.supervised import AnswerLoss, Encoded

LOAD = Load(rows=4, length=64, answers=12)


def llama(*, layers=4, adapted=True, **options):
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 4, "vocab_size": 500}
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, "num_hidden_layers": layers, **options}))
    if not adapted:
        return model
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]))


# The test in a process of its own: what a heap has kept from other tests is reused, and would not count as growth.
MEASURED = """
import ctypes, json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from peft import LoraConfig, get_peft_model
from kit.training.plan import Load, estimate
from kit.training.recompute import recompute_activations
from kit.training.supervised import AnswerLoss

torch.set_num_threads(1)
kind, again = sys.argv[1], sys.argv[2] == "again"
sizes = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "num_hidden_layers": 5}
model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=2000))
if kind == "adapter":
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
if again:
    recompute_activations(model)
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

def step(rows, length):
    ids = torch.randint(0, 2000, (rows, length))
    labels = ids.masked_fill(torch.arange(length) < length - 4, -100)
    AnswerLoss()(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}).backward()

def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

step(1, 8)  # what libraries take at first use
optimizer.zero_grad()
ctypes.CDLL("libc.so.6").malloc_trim(0)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts here
before = resident("VmRSS")
for _ in range(3):
    step(4, 512)
    optimizer.step()
    optimizer.zero_grad()
found = estimate(model, Load(rows=4, length=512, answers=16))
print(json.dumps([resident("VmHWM") - before, found.needed]))
"""


@pytest.mark.parametrize(
    ("kind", "again"),
    [
        ("adapter", ""),
        pytest.param("adapter", "again", marks=pytest.mark.soak),
        pytest.param("whole", "", marks=pytest.mark.soak),
        pytest.param("whole", "again", marks=pytest.mark.soak),
    ],
)
def test_the_estimate_is_within_a_factor_of_two_of_what_a_step_takes(kind, again, need):
    need(os.access("/proc/self/clear_refs", os.W_OK), "peak memory is read from Linux's /proc")
    command = [sys.executable, "-c", MEASURED, kind, again]
    said = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    grown, needed = json.loads(said.splitlines()[-1])
    assert grown / 2 < needed < grown * 2


def kept_for_the_way_back(model, length=64):
    """Bytes that autograd holds after a forward, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen, ids = {}, torch.randint(0, 500, (4, length))

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = model(input_ids=ids, use_cache=False)
    del kept
    return sum(seen.values())


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize("layers", [2, 6])
def test_activations_are_what_autograd_keeps(monkeypatch, adapted, layers):
    monkeypatch.setenv(plan.OWN_PAGES, "131072")  # without what a heap adds
    model = llama(layers=layers, adapted=adapted)
    found = estimate(model, LOAD, free=0).items["activations"]
    assert found == pytest.approx(kept_for_the_way_back(model), rel=0.5)


def test_weights_gradients_and_moments_are_counted_by_type():
    model = llama(adapted=False).to(torch.bfloat16)
    count = sum(parameter.numel() for parameter in model.parameters())
    items = estimate(model, LOAD, free=0).items
    assert (items["weights"], items["gradients"], items["optimiser moments"]) == (2 * count, 2 * count, 4 * count)
    adapter = llama()
    trained = sum(parameter.numel() for parameter in adapter.parameters() if parameter.requires_grad)
    items = estimate(adapter, LOAD, free=0).items
    assert (items["gradients"], items["optimiser moments"]) == (4 * trained, 8 * trained)
    assert items["weights cast for autocast"] == 0
    assert estimate(adapter, LOAD, precision="bf16", free=0).items["weights cast for autocast"] > count / 2


def test_weights_that_lie_there_already_are_not_needed_again():
    model = llama()
    here, there = estimate(model, LOAD, free=0), estimate(model.to("meta"), LOAD, free=0)
    assert here.items == there.items
    assert there.needed - here.needed == here.items["weights"]


@pytest.mark.parametrize(
    ("change", "less"),
    [
        (recompute_activations, True),
        (lambda model: [p.requires_grad_(".3." in n) for n, p in model.named_parameters() if "lora" in n], True),
        (lambda model: [p.requires_grad_("embed" in n) for n, p in model.named_parameters()], False),
        (lambda model: setattr(model.get_base_model().config, "_attn_implementation", "eager"), False),
    ],
    ids=["recomputed", "the last layer's adapter alone", "embeddings", "eager attention"],
)
def test_what_changes_the_activations_changes_the_estimate(change, less):
    model = llama()
    before = estimate(model, LOAD, free=0).items["activations"]
    change(model)
    after = estimate(model, LOAD, free=0).items["activations"]
    assert (after < before * 0.9) if less else (after >= before)


def test_a_trained_head_needs_no_layers():
    model = llama(adapted=False).requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert estimate(model, LOAD, free=0).items["activations"] < 2 * 4 * 64 * 4 * (4 * 64 + 3 * 176)


def test_tokens_and_answers_scale_their_items():
    model = llama()
    one, two = estimate(model, LOAD, free=0).items, estimate(model, Load(8, 64, 24), free=0).items
    assert two["activations"] == pytest.approx(2 * one["activations"], rel=1e-3)
    assert two["logits"] == 2 * one["logits"] == 2 * 12 * 500 * 16


def test_pictures_count_where_the_vision_tower_is_trained(tiny_model):
    frozen = tiny_model.model.requires_grad_(False)
    load = Load(2, 40, 4, pixels=2 * 3 * 32 * 32 * 2)
    head = frozen.get_output_embeddings().requires_grad_(True)
    low = estimate(frozen, load, free=0).items["activations"]
    tiny_model.vision.requires_grad_(True)
    high = estimate(frozen, load, free=0).items["activations"]
    assert high > 1.5 * low
    tiny_model.model.requires_grad_(True)
    del head


def test_not_enough_memory_says_the_estimate_and_what_to_lower():
    found = Estimate({"weights": 9 << 30, "gradients": 1 << 30, "activations": 5 << 30, "logits": 0}, 9 << 30, 4 << 30)
    assert found.needed == 6 << 30
    assert found.largest == "activations"
    with pytest.raises(ModelError) as caught:
        require_memory(found)
    said = str(caught.value)
    assert "not enough memory by estimate: 6 GiB needed, 4 GiB free (weights 9, activations 5, gradients 1)" in said
    assert "most is for activations" in said
    assert "Fix: raise accumulate, call recompute_activations(model)" in said
    require_memory(Estimate(found.items, found.resident, 6 << 30))


@pytest.mark.parametrize("item", ["weights", "gradients", "optimiser moments", "activations", "logits", "pictures"])
def test_every_item_has_advice(item):
    with pytest.raises(ModelError, match=r"Fix: \w+"):
        require_memory(Estimate({item: 10}, 0, 5))


def test_fit_asks_before_its_first_step(tiny_folders, monkeypatch):
    from dual_encoders import noise_pictures

    from kit.data.rows import Question

    model = load_tiny(tiny_folders("llava"))
    rows = [Question(f"q{n}", p, "What?" * (n + 1), "red") for n, p in enumerate(noise_pictures(4, size=32))]
    column = Encoded.of(model, rows)
    largest = column.largest(3)
    batch = column.draw(np.array([1, 2, 3]), np.random.default_rng(0))
    assert (largest.rows, largest.length) == tuple(batch["input_ids"].shape)
    assert largest.pixels == batch["pixel_values"].numel()
    assert largest.answers == AnswerLoss().count(batch)
    assert column.largest(99).rows == 4
    monkeypatch.setattr(plan, "free_bytes", lambda device: 1000)
    stepped = []

    def watching(model, batch):
        stepped.append(1)
        return AnswerLoss()(model, batch)

    with pytest.raises(ModelError, match="not enough memory by estimate"):
        fit(model.model, watching, [column], steps=1, batch_size=3)
    assert not stepped
    fit(model.model, watching, [column], steps=1, batch_size=3, check_memory=False)
    assert stepped


def test_a_model_without_transformer_layers_has_weights_and_gradients():
    found = estimate(nn.Linear(3, 4), Load(1, 1, 1), free=0)
    assert found.items["activations"] == 0
    assert found.needed == 3 * 4 * 16

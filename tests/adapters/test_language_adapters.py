"""LoRA on vision-language models: on a stitch's language tower, and on either tower of the Hub's."""

import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch
from tiny_models import load_tiny

from kit.adapters.language import MATRICES, adapt_language, adapt_towers
from kit.errors import ModelError
from kit.models.chat import Chat

PICTURES = noise_pictures(2, size=32)
# What each architecture calls its towers, and how many layers of LoRA each has with two decoder layers.
HUB = {"smolvlm": ("text_model", "vision_model"), "qwen2_5_vl": ("language_model", "visual")}


def adapted(model):
    """Return the names of layers that LoRA is on."""
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A")]


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model):
    with torch.no_grad():
        return model.model(**Chat.of(model).prompts(PICTURES, ["What colour?", "Is there a triangle?"])).logits


def test_a_stitch_gets_lora_from_the_pictures_entry_on_and_a_projector_to_train(tiny_vision, tiny_language):
    model = tiny_stitch(tiny_vision, tiny_language, entry_layer=2)
    before = logits(model)
    assert adapt_language(model, rank=3) is model
    layers = adapted(model.language)
    assert len(layers) == 2 * len(MATRICES)
    assert all(".layers.2." in name or ".layers.3." in name for name in layers)
    names = trained(model.model)
    assert {name for name in names if "lora_" not in name} == {
        f"projector.{name}" for name, _ in model.projector.named_parameters()
    }
    assert len([name for name in names if "lora_" in name]) == 2 * len(layers)
    assert torch.equal(logits(model), before), "it starts as no change"
    assert model.language.peft_config["default"].r == 3


def test_layers_targets_and_options_are_those_asked_for(tiny_vision, tiny_language):
    model = adapt_language(
        tiny_stitch(tiny_vision, tiny_language), rank=3, targets=["q_proj"], layers=[3], dora=True, alpha=5.0
    )
    assert adapted(model.language) == ["base_model.model.model.layers.3.self_attn.q_proj"]
    config = model.language.peft_config["default"]
    assert (config.use_dora, config.lora_alpha) == (True, 5.0)


def test_rank_0_trains_the_projector_alone(tiny_vision, tiny_language):
    model = adapt_language(tiny_stitch(tiny_vision, tiny_language), rank=0)
    assert not adapted(model.model)
    assert trained(model.model) == {f"projector.{name}" for name, _ in model.projector.named_parameters()}


def test_the_same_seed_gives_the_same_adapter(tiny_vision, tiny_language):
    one, same, other = (
        adapt_language(tiny_stitch(tiny_vision, tiny_language), rank=2, seed=seed).language.state_dict()
        for seed in (1, 1, 2)
    )
    drawn = [name for name in one if "lora_A" in name]
    assert drawn
    assert all(torch.equal(one[name], same[name]) for name in drawn)
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_a_stitch_that_cannot_be_adapted_so_is_left_as_it_was(tiny_vision, tiny_language):
    model = tiny_stitch(tiny_vision, tiny_language)
    with pytest.raises(ModelError, match=r"(?s)'q_prj' fits no module. Did you mean 'q_proj'.*alpha: must be"):
        adapt_language(model, rank=4, alpha=-1, targets=["q_prj", "v_proj"])
    with pytest.raises(ModelError, match=r"rank: is 65, and a change of .* has at most"):
        adapt_language(model, rank=65)
    with pytest.raises(ModelError, match=r"there are only layers 0 to 3"):
        adapt_language(model, layers=[3, 4])
    assert not trained(model.model)
    assert not adapted(model.model)


@pytest.mark.parametrize("name", HUB)
@pytest.mark.parametrize("towers", ["language", "vision", "both"])
def test_models_of_the_hub_get_lora_on_the_towers_asked_for(tiny_folders, name, towers):
    model = load_tiny(tiny_folders(name))
    before = logits(model)
    assert adapt_towers(model, towers=towers, rank=2) is model
    layers, text, vision = adapted(model.model), *HUB[name]
    on_text = [layer for layer in layers if f".{text}." in layer]
    on_vision = [layer for layer in layers if f".{vision}." in layer]
    assert len(on_text) == (0 if towers == "vision" else 2 * len(MATRICES))
    assert bool(on_vision) is (towers != "language")
    assert len(layers) == len(on_text) + len(on_vision)
    assert all("lora_" in parameter for parameter in trained(model.model))
    torch.testing.assert_close(logits(model), before)
    inputs = Chat.of(model).prompts(PICTURES, ["What?"] * 2)
    model.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    without = [one for one, p in model.model.named_parameters() if "lora_B" in one and not p.grad.abs().max() > 0]
    assert not without, "every adapter is in the way of the loss"


def test_targets_and_layers_of_the_hubs_models(tiny_folders):
    model = adapt_towers(load_tiny(tiny_folders("smolvlm")), targets=["q_proj", "up_proj"], layers=[1], rank=2)
    assert [name.split("text_model.")[1] for name in adapted(model.model)] == [
        "layers.1.self_attn.q_proj",
        "layers.1.mlp.up_proj",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"towers": "text"}, r"(?s)towers: 'text' is unknown.*Allowed: both, language, vision."),
        (
            {"targets": ["q_proj", "v_prj"], "rank": 0},
            r"(?s)'v_prj' fits no module. Did you mean 'v_proj'.*rank: must be",
        ),
        ({"targets": ["q_proj", "fc1"]}, r"'fc1' fits no module"),  # the vision tower has it
        ({"layers": [5]}, r"there are only layers 0 to 1"),
        ({"towers": "both", "layers": [1]}, r"the targets lie in several stacks of layers"),
        ({"rank": 999}, r"rank: is 999"),
    ],
)
def test_what_fits_no_layer_of_the_hubs_models_is_said(tiny_folders, options, said):
    model = load_tiny(tiny_folders("smolvlm"))
    with pytest.raises(ModelError, match=said):
        adapt_towers(model, **options)
    assert not adapted(model.model)


def test_each_kind_of_model_is_sent_to_the_function_for_it(tiny_vision, tiny_language, tiny_folders):
    with pytest.raises(ModelError, match=r"(?s)has a projector that was trained already.*Fix: use adapt_towers"):
        adapt_language(load_tiny(tiny_folders("smolvlm")))
    with pytest.raises(ModelError, match=r"(?s)is stitched, and its vision tower is .*Fix: use adapt_language"):
        adapt_towers(tiny_stitch(tiny_vision, tiny_language), towers="vision")

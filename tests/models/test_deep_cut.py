"""A cut inside the towers: the uncut model's losses and gradients, and nothing below the lowest adapter in the way."""

import dataclasses

import open_clip
import pytest
import timm
import torch
from dual_encoders import TINY, fresh, noise_pictures

from kit.adapters.clip_lora import add_clip_lora
from kit.adapters.lora import add_lora
from kit.errors import ModelError
from kit.models.activations import ActivationStore
from kit.models.cut import Pairs
from kit.models.deep_cut import DeepCut, DeepTail
from kit.models.encode import PrefixEncoder, Prefixes, embed
from kit.training.columns import OneOf
from kit.training.fit import fit
from kit.training.objectives import Contrastive

TEXTS = ["a dog", "two cats on a mat in the rain", "x", "ein Haus mit Garten"]
PICTURES = noise_pictures(4)


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "store", limit_gib=1)


@torch.no_grad()
def as_trained(encoder):
    generator = torch.Generator().manual_seed(1)
    for one in trained(encoder).values():
        one.add_(torch.randn(one.shape, generator=generator) * 0.02)
    return encoder


def trained(encoder):
    return {name: one for name, one in encoder.clip.named_parameters() if one.requires_grad}


def adapted(plain, **options):
    return as_trained(add_clip_lora(fresh(plain), **{"image": 1, "text": 1, "rank": 4} | options))


def kept(encoder, cut, store):
    """What is computed once."""
    frozen = PrefixEncoder(encoder, store, cut=cut)
    return Prefixes(frozen.images(PICTURES), frozen.texts(TEXTS))


class Whole(torch.nn.Module):
    """The uncut model, as open_clip runs it."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels, tokens):
        clip = self.encoder.clip
        image, text = self.encoder.encode_image(pixels), self.encoder.encode_text(tokens)
        return Pairs(image, text, clip.logit_scale.exp(), None)


def uncut(encoder):
    """Loss and gradients of the uncut model in evaluation mode, by parameter."""
    pixels = torch.stack([encoder.preprocess(picture.open()) for picture in PICTURES])
    loss = Contrastive()(Whole(encoder), pixels, encoder.tokenize(TEXTS))
    parameters = list(trained(encoder).values())
    return loss, dict(zip(map(id, parameters), torch.autograd.grad(loss, parameters), strict=True))


def check_against_uncut(encoder, cut, store):
    prefixes = kept(encoder, cut, store)
    tail = DeepTail(cut).train()  # of which nothing shows: no dropout is asked for, and the towers stay as they are
    loss = Contrastive()(tail, prefixes.image.all(), prefixes.text.all())
    parameters = [one for one in tail.parameters() if one.requires_grad]
    expected, gradients = uncut(encoder)
    assert float((loss - expected).abs() / expected) < 1e-5
    assert {id(one) for one in parameters} == set(gradients)
    for one, found in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        assert float((found - gradients[id(one)]).norm() / gradients[id(one)].norm()) < 1e-4


@pytest.fixture
def custom(tiny):
    """A timm network with batch norms, and a text tower of its own."""
    vision = {"image_size": 160, "timm_model_name": "test_efficientnet", "timm_proj": "linear", "timm_pool": "avg"}
    settings = {**TINY, "vision_cfg": {**vision, "timm_model_pretrained": False}}
    torch.manual_seed(0)
    clip = open_clip.model.CustomTextCLIP(**settings).eval()
    size = {**tiny.preprocess_cfg, "size": [160, 160]}
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**size), is_train=False)
    return dataclasses.replace(tiny, clip=clip, model_cfg=settings, preprocess_cfg=size, transform=transform)


@pytest.mark.parametrize("name", ["tiny", "custom"])
def test_losses_and_gradients_are_the_uncut_models(name, request, store):
    encoder = adapted(request.getfixturevalue(name))
    check_against_uncut(encoder, DeepCut(encoder), store)


@pytest.mark.weights
def test_losses_and_gradients_of_the_packaged_towers_are_the_uncut_models(stitched, store):
    plain = fresh(stitched)
    plain.clip.visual.head.get_submodule("drop").p = 0.0
    encoder = adapted(plain, image=2, text=2)
    cut = DeepCut(encoder)
    assert cut.notes == ["image tower: cut below block 14 of 16", "text tower: cut below block 4 of 6"]
    check_against_uncut(encoder, cut, store)


def test_a_deeper_cut_is_the_same_model(tiny, store):
    encoder = adapted(tiny)
    check_against_uncut(encoder, DeepCut(encoder, image=0, text=0), store)


def test_a_cut_above_the_lowest_adapter_is_refused(tiny):
    with pytest.raises(ModelError) as caught:
        DeepCut(adapted(tiny, image=2, text=1), image=1, text=2)
    image, text = caught.value.faults
    assert str(image).startswith("cut: image: block 1 is above the lowest adapter, which is in block 0")
    assert str(text).startswith("cut: text: block 2 is above the lowest adapter, which is in block 1")
    assert "Fix: cut at 1 or below, or adapt higher blocks only" in str(text)
    with pytest.raises(ModelError, match=r"(?s)cut: image: there is no block -1\n  Fix: give one of 0 to 1"):
        DeepCut(adapted(tiny), image=-1)


def test_a_tower_without_adapter_is_cut_below_its_projection(tiny, store):
    plain = PrefixEncoder(tiny, store)
    plain.images(PICTURES)
    encoder = adapted(tiny, image=0)
    cut = DeepCut(encoder)
    assert cut.notes[0] == "image tower: cut below its projection"
    assert kept(encoder, cut, store).image.computed == 0, "what was computed without an adapter is found again"
    check_against_uncut(encoder, cut, store)


def test_a_tower_that_cannot_be_cut_runs_whole_and_says_so(custom, store):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.fill_(1)  # timm starts a block's last one at 0, and no gradient would pass
    custom.clip.visual.trunk = network
    custom.clip.visual.head = torch.nn.Sequential(torch.nn.Linear(network.num_features, 12)).eval()
    targets = ["visual.trunk.layer4.0.conv1", "text.transformer.resblocks.1.mlp.c_fc"]
    custom.clip.eval().requires_grad_(False)
    add_lora(custom.clip, targets=targets, rank=2)
    custom.clip.logit_scale.requires_grad_(True)
    cut = DeepCut(as_trained(custom))
    assert cut.notes[0] == "image tower: is of a kind that kit cannot cut, so it runs whole at every step"
    check_against_uncut(custom, cut, store)
    assert kept(custom, cut, store).image.all().shape == (4, 3, 160, 160)


def test_an_adapter_below_all_blocks_leaves_nothing_to_cut(tiny, store):
    encoder = fresh(tiny)
    encoder.clip.requires_grad_(False)
    add_lora(encoder.clip, targets=["visual.conv1", "token_embedding"], rank=2)
    cut = DeepCut(as_trained(encoder))
    assert all("trains something below its blocks" in note for note in cut.notes)
    check_against_uncut(encoder, cut, store)


@pytest.mark.weights
def test_a_text_longer_than_what_is_kept_is_refused(stitched):
    cut = DeepCut(adapted(stitched, image=0), length=8)
    with pytest.raises(ModelError, match=r"(?s)a text has 9 tokens, and 8 are kept.*length=9 or more"):
        cut.text(stitched.tokenize(["one two three four five six seven"]))


def test_only_adapters_and_projections_drop_out_while_training(custom, store):
    encoder = fresh(custom)
    targets = ["visual.trunk.blocks.4.0.conv_pwl", "text.transformer.resblocks.1.mlp.c_fc"]
    encoder.clip.requires_grad_(False)
    add_lora(encoder.clip, targets=targets, rank=2, dropout=0.5)
    encoder.clip.logit_scale.requires_grad_(True)
    cut = DeepCut(as_trained(encoder))
    prefixes = kept(encoder, cut, store)
    tail = DeepTail(cut).train()
    on = {name for name, module in tail.named_modules() if module.training and isinstance(module, torch.nn.Dropout)}
    assert {name.partition(".lora_dropout")[2] for name in on if ".lora_dropout" in name} == {".default"}
    assert all(".lora_dropout" in name or name.startswith("head.") for name in on)
    assert not any(module.training for module in tail.modules() if isinstance(module, torch.nn.BatchNorm2d))
    batch = prefixes.image.all(), prefixes.text.all()
    losses = {float(Contrastive()(tail, *batch)) for _ in range(3)}
    assert len(losses) == 3
    assert len({float(Contrastive()(tail.eval(), *batch)) for _ in range(3)}) == 1


def test_what_is_kept_follows_from_what_lies_below_the_cut(tiny, store):
    def keys(encoder, **places):
        return PrefixEncoder(encoder, store, cut=DeepCut(encoder, **places)).keys

    plain = keys(adapted(tiny))
    assert keys(adapted(tiny, rank=2, seed=3)) == plain
    above = fresh(tiny)
    above.clip.visual.transformer.resblocks[1].mlp.c_fc.weight.data += 1
    above.clip.visual.transformer.resblocks[1].attn.in_proj_weight.data += 1
    above.clip.visual.proj.data += 1
    assert keys(adapted(above)) == plain
    below = fresh(tiny)
    below.clip.visual.transformer.resblocks[0].attn.in_proj_weight.data[0, 0] += 1e-3
    assert keys(adapted(below))["image"] != plain["image"]
    assert keys(adapted(below))["text"] == plain["text"]
    deeper = keys(adapted(tiny), image=0, text=0)
    assert deeper["image"] != plain["image"]
    assert deeper["text"] != plain["text"]
    assert PrefixEncoder(tiny, store).keys["image"] != plain["image"]


def test_training_the_tail_trains_the_model_and_resumes_to_the_same_bits(tiny, store, tmp_path):
    def run(folder, **more):
        encoder = add_clip_lora(fresh(tiny), image=1, text=1, rank=4, seed=2)
        cut = DeepCut(encoder)
        prefixes = kept(encoder, cut, store)
        texts = OneOf.of([prefixes.text, prefixes.text])
        tail = DeepTail(cut)
        settings = {"steps": 6, "batch_size": 4, "lr": 1e-2, "checkpoint": tmp_path / folder, "every": 2}
        found = fit(tail, Contrastive(), [prefixes.image, texts], **settings, **more)
        return encoder, tail, prefixes, found

    encoder, tail, prefixes, found = run("stopped", stop_after=4)
    assert found.losses[-1] < found.losses[0]
    resumed, *_, found = run("stopped")
    assert found.resumed_at == 4
    straight, *_ = run("straight")
    assert all(torch.equal(one, trained(straight)[name]) for name, one in trained(resumed).items())
    state, before = encoder.clip.state_dict(), tiny.clip.state_dict()
    frozen = {
        name: state[name.replace("attn.", "attn.base_layer.")] for name in before if "resblocks.1.attn.in" in name
    }
    assert frozen
    assert all(torch.equal(one, before[name]) for name, one in frozen.items())
    image, text = embed(tail, prefixes)
    with torch.no_grad():
        pixels = torch.stack([encoder.preprocess(picture.open()) for picture in PICTURES])
        assert torch.allclose(encoder.encode_image(pixels), image, atol=1e-5)
        assert torch.allclose(encoder.encode_text(encoder.tokenize(TEXTS)), text, atol=1e-5)

"""The cut: prefix and tail together are open_clip's whole model."""

import dataclasses
import json

import open_clip
import pytest
import torch
from dual_encoders import TINY, fresh, noise_pictures, write_clip
from torch.nn import functional as F

from kit.errors import ModelError
from kit.models.cut import DualEncoderTail, Prefix, WholeDualEncoder, frozen_prefix, frozen_settings
from kit.models.load import load_dual_encoder

TEXTS = ["a dog", "two cats on a mat", "rain"]


@pytest.fixture(params=["stitched", "tiny", "linear", "custom"])
def encoder(request, tmp_path):
    """A stitch; a native CLIP; one whose text projection is a layer with a bias; one with a separate text tower."""
    if request.param in {"stitched", "tiny"}:
        return request.getfixturevalue(request.param)
    settings = TINY
    if request.param == "linear":
        settings = {**TINY, "text_cfg": {**TINY["text_cfg"], "proj_bias": True}}
        return load_dual_encoder(f"local-dir:{write_clip(tmp_path / 'clip', settings)}", device="cpu")
    torch.manual_seed(0)
    made = open_clip.model.CustomTextCLIP(**TINY).eval()
    plain = request.getfixturevalue("tiny")
    return dataclasses.replace(plain, clip=made, model_cfg={**TINY, "custom_text": True})


def inputs(encoder):
    pixels = torch.stack([encoder.preprocess(picture.open()) for picture in noise_pictures(3)])
    return pixels, encoder.tokenize(TEXTS)


def test_prefix_and_tail_are_the_whole_model(encoder):
    pixels, tokens = inputs(encoder)
    with torch.no_grad():
        image, text, *rest = encoder.clip(pixels, tokens)
        if isinstance(image, str):  # custom models may answer with a mapping
            answer = encoder.clip(pixels, tokens)
            image, text, rest = answer["image_features"], answer["text_features"], [answer["logit_scale"]]
        prefix, tail = Prefix(encoder), DualEncoderTail(encoder).eval()
        pairs = tail(prefix.image(pixels), prefix.text(tokens))
        whole = WholeDualEncoder(encoder).eval()(pixels, tokens)
    for found in (pairs, whole):
        assert torch.allclose(found.image, image, atol=1e-4)
        assert torch.allclose(found.text, text, atol=1e-5)
        assert torch.allclose(found.scale, rest[0])
        assert found.bias is None


def test_the_projections_are_back_in_their_place_after_a_forward_pass_even_a_failed_one(encoder):
    before = {name: id(tensor) for name, tensor in encoder.clip.state_dict(keep_vars=True).items()}
    prefix = Prefix(encoder)
    prefix.text(encoder.tokenize(TEXTS))
    for bad in (lambda: prefix.text(torch.full((1, 4), 10**6)), lambda: prefix.image(torch.zeros(1, 5, 32, 32))):
        with pytest.raises((IndexError, RuntimeError)):
            bad()
    assert {name: id(tensor) for name, tensor in encoder.clip.state_dict(keep_vars=True).items()} == before


def test_tail_and_frozen_prefix_share_no_weight_and_miss_none(encoder):
    tail = {id(parameter) for parameter in DualEncoderTail(encoder).parameters()}
    below = frozen_prefix(encoder)
    state = encoder.clip.state_dict(keep_vars=True)
    assert tail.isdisjoint(map(id, below.values()))
    assert len(below) + len(tail) == len(state)


def test_training_the_tail_trains_the_model(tiny):
    encoder = fresh(tiny)
    tail = DualEncoderTail(encoder)
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.add_(0.1)
    changed = {n for n, t in encoder.clip.state_dict().items() if not torch.equal(t, tiny.clip.state_dict()[n])}
    assert changed == {"visual.proj", "text_projection", "logit_scale"}


def test_the_frozen_towers_are_no_parameters_of_the_whole_model(tiny):
    whole = WholeDualEncoder(tiny)
    assert {name for name, _ in whole.named_parameters()} == {
        f"tail.{name}" for name, _ in DualEncoderTail(tiny).named_parameters()
    }


def test_the_temperature_is_bounded(tiny):
    encoder = fresh(tiny)
    encoder.clip.logit_scale.data.fill_(50.0)
    pairs = DualEncoderTail(encoder)(torch.randn(2, 32), torch.randn(2, 24))
    assert pairs.scale.item() == 100
    assert torch.allclose(pairs.image, F.normalize(pairs.image, dim=-1))


def test_settings_below_the_cut_are_told_apart_from_those_above(tiny):
    def with_(side, **change):
        return dataclasses.replace(tiny, model_cfg={**TINY, side: {**TINY[side], **change}})

    image, text = frozen_settings(tiny, "image"), frozen_settings(tiny, "text")
    quick = dataclasses.replace(tiny, model_cfg={**TINY, "quick_gelu": True})
    assert frozen_settings(quick, "image") != image
    assert frozen_settings(quick, "text") != text
    assert frozen_settings(with_("vision_cfg", head_width=8), "image") != image
    assert frozen_settings(with_("vision_cfg", head_width=8), "text") == text
    assert frozen_settings(with_("text_cfg", heads=4), "text") != text
    assert frozen_settings(with_("text_cfg", heads=4), "image") == image
    assert frozen_settings(with_("vision_cfg", timm_proj="mlp", timm_drop=0.5), "image") == image
    assert frozen_settings(dataclasses.replace(tiny, model_cfg={**TINY, "embed_dim": 7}), "image") == image
    assert json.loads(image)["vision_cfg"]["head_width"] == 16


def test_a_tower_without_a_projection_is_refused(tiny):
    settings = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TINY["text_cfg"],
    }
    resnet = dataclasses.replace(tiny, clip=open_clip.model.CLIP(**settings), model_cfg=settings)
    with pytest.raises(ModelError, match="ModifiedResNet: has no projection to cut at"):
        DualEncoderTail(resnet)

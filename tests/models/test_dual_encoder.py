"""The small protocol: unit vectors, padding to the longest text, an identity that is the whole model's."""

import dataclasses

import pytest
import torch
from dual_encoders import fresh, noise_pictures

from kit.models.dual_encoder import DualEncoder, architecture, weights_digest

TEXTS = ["a dog", "an airplane that lands on a very long runway in the rain", "Käse", ""]


def test_it_keeps_the_protocol(tiny):
    assert isinstance(tiny, DualEncoder)
    assert tiny.embed_dim == 12
    pixels = torch.stack([tiny.preprocess(picture.open()) for picture in noise_pictures(3)])
    assert pixels.shape == (3, 3, 32, 32)
    with torch.no_grad():
        image, text = tiny.encode_image(pixels), tiny.encode_text(tiny.tokenize(TEXTS))
    assert image.shape == (3, 12)
    assert text.shape == (4, 12)
    assert torch.allclose(image.norm(dim=-1), torch.ones(3))
    assert torch.allclose(text.norm(dim=-1), torch.ones(4))


def test_open_clips_own_text_towers_keep_their_fixed_length(tiny):
    assert tiny.tokenize(["a"]).shape == (1, 16)


@pytest.mark.weights
def test_padding_to_the_longest_text_gives_the_vectors_of_padding_to_77(stitched):
    short, full = stitched.tokenize(TEXTS), stitched.tokenizer(TEXTS)
    assert full.shape == (4, 77)
    assert short.shape[1] < 20
    with torch.no_grad():
        assert torch.allclose(stitched.encode_text(short), stitched.encode_text(full), atol=1e-6)
        alone = torch.cat([stitched.encode_text(stitched.tokenize([text])) for text in TEXTS])
        assert torch.allclose(alone, stitched.encode_text(full), atol=1e-6)


def test_every_weight_and_setting_is_in_the_digest(tiny):
    known = {tiny.digest()}
    changed = fresh(tiny)
    assert changed.digest() in known, "an equal model has an equal digest"
    with torch.no_grad():
        changed.clip.logit_scale += 1e-6
    known.add(changed.digest())
    known.add(dataclasses.replace(tiny, model_cfg={**tiny.model_cfg, "quick_gelu": True}).digest())
    known.add(dataclasses.replace(tiny, preprocess_cfg={**tiny.preprocess_cfg, "mean": [0.4] * 3}).digest())
    assert len(known) == 4


def test_where_weights_came_from_is_not_in_the_digest(tiny):
    moved = {**tiny.model_cfg, "text_cfg": {**tiny.model_cfg["text_cfg"], "hf_tokenizer_name": "/elsewhere"}}
    assert dataclasses.replace(tiny, model_cfg=moved).digest() == tiny.digest()
    assert architecture({"a": {"hf_model_name": "x", "b": 1}}) == {"a": {"b": 1}}


def test_types_and_shapes_are_in_a_weights_digest():
    layer = torch.nn.Linear(4, 4, bias=False)
    reshaped = torch.nn.Linear(8, 2, bias=False)
    reshaped.weight.data = layer.weight.data.reshape(2, 8)
    assert weights_digest(layer) != weights_digest(reshaped)
    assert weights_digest(layer) != weights_digest(torch.nn.Sequential(layer))

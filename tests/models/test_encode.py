"""Rows through the towers: each input once, in order, under a key that means what it says."""

import dataclasses

import numpy as np
import pytest
import torch
from dual_encoders import TINY, fresh, noise_pictures

from kit.data.picture import Picture
from kit.errors import DataError, ModelError
from kit.models import encode
from kit.models.activations import ActivationStore
from kit.models.encode import PrefixEncoder, Prefixes, embed

TEXTS = ["a very long text about two cats on a mat in the rain", "dog", "a dog", "dog", "x", "two cats"]


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "store", limit_gib=1)


def whole(encoder, pictures, texts):
    pixels = torch.stack([encoder.preprocess(picture.open()) for picture in pictures])
    with torch.no_grad():
        return encoder.encode_image(pixels), torch.cat([encoder.encode_text(encoder.tokenize([t])) for t in texts])


@pytest.mark.parametrize("name", ["tiny", pytest.param("stitched", marks=pytest.mark.weights)])
def test_embedding_from_the_store_is_embedding(name, request, store, monkeypatch):
    monkeypatch.setattr(encode, "SHARD", 4)
    monkeypatch.setattr(encode, "TEXT_BATCH", 2)
    encoder = request.getfixturevalue(name)
    pictures = [noise_pictures(7)[place] for place in (3, 0, 6, 0, 1, 2)]
    encoded = PrefixEncoder(encoder, store)
    prefixes = Prefixes(encoded.images(pictures), encoded.texts(TEXTS))
    for found, expected in zip(embed(encoder, prefixes), whole(encoder, pictures, TEXTS), strict=True):
        assert torch.allclose(found, expected, atol=1e-4)
    assert prefixes.image.computed == 5
    assert prefixes.text.computed == 5
    again = Prefixes(encoded.images(pictures[::-1]), encoded.texts(TEXTS[::-1]))
    assert again.image.computed == again.text.computed == 0
    assert torch.equal(again.image.all(), prefixes.image.all().flip(0))
    assert torch.equal(again.text.all(), prefixes.text.all().flip(0))


def test_the_key_follows_from_what_lies_below_the_cut(tiny, store):
    def keys(encoder):
        return PrefixEncoder(encoder, store).keys

    plain = keys(tiny)
    assert plain["image"] != plain["text"]
    above = fresh(tiny)
    above.clip.visual.proj.data += 1
    above.clip.text_projection.data += 1
    above.clip.logit_scale.data += 1
    assert keys(above) == plain, "training above the cut throws nothing away"
    below = fresh(tiny)
    below.clip.visual.conv1.weight.data[0, 0, 0, 0] += 1e-3
    assert keys(below)["image"] != plain["image"]
    assert keys(below)["text"] == plain["text"], "a new image tower keeps the texts"
    quick = dataclasses.replace(tiny, model_cfg={**TINY, "quick_gelu": True})
    assert keys(quick)["image"] != plain["image"], "equal weights, another activation function"
    darker = dataclasses.replace(tiny, preprocess_cfg={**tiny.preprocess_cfg, "mean": [0.4] * 3})
    assert keys(darker)["image"] != plain["image"]


@pytest.mark.weights
def test_a_bundle_shares_activations_with_the_model_it_was_saved_from(stitched, store, tmp_path):
    from kit.adapters.bundle import save_bundle

    bundle = save_bundle(tmp_path / "b", stitched, name="x")
    assert PrefixEncoder(bundle.load(), store).keys == PrefixEncoder(stitched, store).keys


def test_a_killed_encoding_goes_on_where_it_stopped(tiny, store, monkeypatch):
    monkeypatch.setattr(encode, "SHARD", 4)
    pictures = noise_pictures(10)
    broken = [*pictures[:9], Picture("broken.png", reader=lambda: b"no picture")]
    encoded = PrefixEncoder(tiny, store)
    with pytest.raises(DataError, match=r"broken\.png: is no picture"):
        encoded.images(broken)
    found = encoded.images(pictures)
    assert found.computed == 2, "two shards of four were kept"
    assert np.isfinite(found.all().numpy()).all()


def test_nothing_to_encode_is_said(tiny, store):
    with pytest.raises(ModelError, match="there is nothing to encode"):
        PrefixEncoder(tiny, store).images([])

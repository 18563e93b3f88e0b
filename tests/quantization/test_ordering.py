"""Channels in the order of their size: what shares a scale is alike, and less is lost."""

import pytest
import torch

from kit.data.prose import load_prose
from kit.models.language import load_language
from kit.quantization.defaults import GraphText, kits_graph
from kit.quantization.moments import text_moments
from kit.quantization.onnx_graph import write_layers
from kit.quantization.ordering import laid_out, order_of

IDS = torch.arange(5, 60)[None]


@pytest.fixture
def uneven(language):
    """A model of which one inner channel in eight is a thousand times as large as those beside it."""
    model, words = load_language(f"local-dir:{language}")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::8] *= 1000
            layer.mlp.down_proj.weight[:, ::8] /= 1000
    return model, words


@torch.no_grad()
def test_large_channels_take_nothing_from_small_ones_any_more(uneven, tmp_path):
    language, words = uneven
    read = text_moments(language, words, load_prose(limit=2, words=40))
    expected = language(input_ids=IDS).logits
    write_layers(language, slice(0, None), tmp_path / "as_they_are.onnx", moments=read)
    as_they_are = GraphText(language, tmp_path / "as_they_are.onnx", torch.arange(language.config.hidden_size))
    ordered = kits_graph(language, tmp_path / "ordered.onnx", moments=read)
    lost = [(graph(IDS).logits - expected).abs().mean() for graph in (as_they_are, ordered)]
    assert 0 < lost[1] < 0.6 * lost[0]


def test_an_order_is_of_sizes_and_moments_follow_it(uneven):
    language, words = uneven
    read = text_moments(language, words, load_prose(limit=2, words=40))
    order = order_of(language, read)
    large = set(range(0, language.config.intermediate_size, 8))
    assert set(order.inner[1][-len(large) :].tolist()) == large
    laid = laid_out(language, 1, order, read)
    assert (laid.moments["down"].diag().diff() >= 0).all()
    assert torch.equal(laid.moments["o"], read[1, "o"])
    assert laid.matrices["gate_up"].shape == (2 * language.config.intermediate_size, language.config.hidden_size)


def test_without_moments_channels_stay(uneven):
    language, _ = uneven
    order = order_of(language, {})
    laid = laid_out(language, 0, order, {})
    assert torch.equal(order.hidden, torch.arange(language.config.hidden_size))
    assert torch.equal(laid.matrices["down"], language.model.layers[0].mlp.down_proj.weight)
    assert set(laid.moments.values()) == {None}

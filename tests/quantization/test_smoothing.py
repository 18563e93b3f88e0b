"""Channels evened out before they are rounded: the model stays, what shares a scale is alike, and less is lost."""

import pytest
import torch

from kit.data.prose import load_prose
from kit.models.language import load_language
from kit.quantization.defaults import kits_graph
from kit.quantization.moments import text_moments
from kit.quantization.smoothing import laid_out

IDS = torch.arange(5, 60)[None]


@pytest.fixture
def uneven(language):
    """A model of which one channel in 32 is three hundred times as large as those beside it, wherever one is made."""
    model, words = load_language(f"local-dir:{language}")
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            layer.input_layernorm.weight[::32] *= 300
            layer.post_attention_layernorm.weight[::32] *= 300
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                matrix.weight[:, ::32] /= 300
            mlp.up_proj.weight[::32] *= 300
            mlp.down_proj.weight[:, ::32] /= 300
    return model, words


@torch.no_grad()
def test_large_channels_take_less_from_small_ones(uneven, tmp_path, monkeypatch):
    language, words = uneven
    read = text_moments(language, words, load_prose(limit=2, words=40))
    expected = language(input_ids=IDS).logits
    evened = kits_graph(language, tmp_path / "evened.onnx", moments=read)
    monkeypatch.setattr("kit.quantization.smoothing._sizes", lambda _: None)
    monkeypatch.setattr("kit.quantization.smoothing._heads", lambda *_: (None, None))
    as_they_are = kits_graph(language, tmp_path / "as_they_are.onnx", moments=read)
    lost = [(graph(IDS).logits - expected).abs().mean() for graph in (as_they_are, evened)]
    assert 0 < lost[1] < 0.5 * lost[0]


@torch.no_grad()
def test_moments_are_those_of_what_is_read_then(uneven):
    language, words = uneven
    prose = load_prose(limit=2, words=40)
    read = text_moments(language, words, prose)
    for number, layer in enumerate(language.model.layers):
        laid = laid_out(language, number, read)
        attention, mlp, width = layer.self_attn, layer.mlp, language.config.num_key_value_heads * 16
        spread = [read[number, "qkv"].diag(), laid.moments["qkv"].diag()]
        assert spread[1].log().std() < 0.6 * spread[0].log().std()
        layer.input_layernorm.weight.data, layer.post_attention_layernorm.weight.data = laid.gains
        query, key, value = laid.matrices["qkv"].split([attention.q_proj.out_features, width, width])
        gate, up = laid.matrices["gate_up"].chunk(2)
        matrices = (attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value)
        matrices += (attention.o_proj, laid.matrices["o"]), (mlp.gate_proj, gate), (mlp.up_proj, up)
        for matrix, own in (*matrices, (mlp.down_proj, laid.matrices["down"])):
            matrix.weight.data = own
        after = text_moments(language, words, prose)
        for kind in ("qkv", "o", "gate_up", "down"):
            torch.testing.assert_close(laid.moments[kind], after[number, kind], rtol=1e-3, atol=1e-4)


def test_without_moments_a_layer_is_as_it_is(uneven):
    language, _ = uneven
    laid = laid_out(language, 0, {})
    assert torch.equal(laid.matrices["down"], language.model.layers[0].mlp.down_proj.weight)
    assert torch.equal(laid.gains[0], language.model.layers[0].input_layernorm.weight)
    assert set(laid.moments.values()) == {None}

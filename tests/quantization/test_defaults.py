"""Libraries' own defaults beside kit's choices on one model, and weights moved off a grid that flatters."""

import pytest
import torch

from kit.data.prose import load_prose
from kit.evaluation.forgetting import text_loss
from kit.models.language import load_language
from kit.quantization.defaults import DEFAULTS, GraphText, dithered, kits_graph, on_16_levels, onnxruntime_dynamic
from kit.quantization.moments import text_moments
from kit.quantization.onnx_graph import FOUR
from kit.quantization.openvino_graph import openvino_text
from kit.quantization.rounding import BLOCK

IDS = torch.arange(5, 30)[None]


@pytest.fixture
def model(language):
    return load_language(f"local-dir:{language}")


def on_a_grid(language):
    generator = torch.Generator().manual_seed(0)
    for module in language.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            shape = module.weight.shape
            levels = torch.randint(0, 16, (shape[0], shape[1] // BLOCK, BLOCK), generator=generator).float()
            levels[..., 0], levels[..., 1] = 0, 15
            module.weight.data = ((levels - 7) * 0.02).reshape(shape)


@torch.no_grad()
def lost(language, tmp_path):
    expected = language(input_ids=IDS).logits
    return float((kits_graph(language, tmp_path / "four.onnx", bits=FOUR)(IDS).logits - expected).abs().mean())


def test_a_grid_of_16_levels_flatters_4_bits_and_dithering_takes_that_away(model, tmp_path):
    language, _ = model
    assert on_16_levels(language) < 0.2
    on_a_grid(language)
    assert on_16_levels(language) == pytest.approx(1)
    before = [one.clone() for one in language.parameters()]
    flattered = lost(language, tmp_path)
    dithered(language, seed=1)
    moves = [(one - old).abs().max() for one, old in zip(language.parameters(), before, strict=True)]
    assert 0.009 < max(moves) <= 0.01 + 1e-6  # half a step of 0.02
    assert on_16_levels(language) < 0.2
    assert lost(language, tmp_path) > 4 * flattered


@torch.no_grad()
def test_graphs_read_text_and_go_on_as_the_model_does(model, tmp_path):
    language, words = model
    prose = load_prose(limit=2, words=30)
    expected = text_loss(language, words, prose, context=64, stride=32)
    given = {"moments": text_moments(language, words, prose)}
    ours, rival = (
        kits_graph(language, tmp_path / "kit.onnx", **given),
        openvino_text(language, tmp_path / "a.xml", **given),
    )
    for graph in (onnxruntime_dynamic(language, tmp_path), ours, rival):
        assert isinstance(graph, GraphText)
        found = text_loss(graph, words, prose, context=64, stride=32)
        assert found.perplexity == pytest.approx(expected.perplexity, rel=0.02)
        assert found.perplexity != expected.perplexity
        logits = graph(IDS).logits[0]
        # A token by itself is rounded otherwise than among others, and a random model's best are all but tied.
        for place, token in enumerate((graph.start(IDS[0, :-1].tolist()), graph.go_on(int(IDS[0, -1]))), -2):
            assert logits[place, token] > logits[place].max() - 0.1
        assert graph.mb > 0.1


@torch.no_grad()
def test_both_runtimes_multiply_the_same_numbers(model, tmp_path):
    language, _ = model
    ours, rival = kits_graph(language, tmp_path / "kit.onnx"), openvino_text(language, tmp_path / "a.xml")
    floats, between = language(input_ids=IDS).logits, (ours(IDS).logits - rival(IDS).logits).abs().mean()
    assert 0 < between < (ours(IDS).logits - floats).abs().mean() * 1.5
    rival.start(IDS[0].tolist())
    assert (rival(IDS).logits == rival(IDS).logits).all(), "it remembers what was read before"


@pytest.mark.parametrize("name", sorted(DEFAULTS))
@torch.no_grad()
def test_a_librarys_line_gives_a_model_of_fewer_bits(model, language, name):
    found = DEFAULTS[name](language)(input_ids=IDS).logits.float()
    apart = (found - model[0](input_ids=IDS).logits).abs().max()
    assert 1e-4 < apart < 2

"""Preference tuning that is held to its parent on plain text: the divergence, the column, and what it keeps."""

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch
from torch.nn import functional as F

from kit.adapters.language import adapt_language
from kit.data.rows import Preference
from kit.errors import DataError, ModelError
from kit.models.activations import ActivationStore
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.preference_packs import PreferencePacks, likelihoods
from kit.training.fit import fit
from kit.training.held_text import Divergence, Held, HeldText
from kit.training.preference import Preferring

ONE, TWO = noise_pictures(2)
ROWS = [
    Preference("a", ONE, "What colour is it?", "red", "a big blue triangle"),
    Preference("b", TWO, "Say yes", "yes", "I would rather not"),
    Preference("c", None, "Which?", "teal", "grey"),
]
PROSE = ["A value is bound to a name where that name is first used.", "Nothing else is evaluated in the block then."]


@pytest.fixture
def cut(tiny_vision, tiny_language, tmp_path):
    model = tiny_stitch(tiny_vision, tiny_language, entry_layer=0)
    adapt_language(model, rank=4)
    return LanguageCut(model, ActivationStore(tmp_path))


def test_the_divergence_and_its_gradient_are_autograds():
    generator = torch.Generator().manual_seed(0)
    hidden, reference = (torch.randn(300, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, share = torch.randn(40, 8, generator=generator, dtype=torch.float64), torch.rand(300, generator=generator)
    found, wanted = (hidden.clone().requires_grad_() for _ in range(2))
    nats = Divergence.apply(found, reference, weight)
    parent = (reference @ weight.T).log_softmax(-1)
    plain = F.kl_div((wanted @ weight.T).log_softmax(-1), parent, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(nats, plain.float(), rtol=1e-5, atol=1e-5)
    (nats * share).sum().backward()
    (plain * share).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-5)
    assert float(Divergence.apply(hidden, hidden, weight).abs().max()) < 1e-6


def test_preference_tuning_moves_plain_text_less_when_it_is_held(cut):
    """The same steps with the weight at 0 and above it; and the preferred answers are learnt all the same."""
    start = {name: one.detach().clone() for name, one in LanguageTail(cut).named_parameters()}
    moved = {}
    for weight in (0.0, 30.0):
        tail = LanguageTail(cut).eval()
        tail.load_state_dict(start, strict=False)
        rows = PreferencePacks.of(cut, ROWS).with_reference(tail)
        text = HeldText.of(cut, PROSE, rows=len(rows), tokens=4).with_reference(tail)
        batch = text.draw(np.arange(3), np.random.default_rng(0))
        assert batch.divergence(tail).item() == pytest.approx(0, abs=1e-6), "the model begins as its parent"
        fit(tail, Held(Preferring(), weight), [rows, text], steps=12, batch_size=3, lr=0.01, weight_decay=0.0)
        gained = likelihoods(tail, rows).answers - rows.reference
        assert (gained[:, 0] > gained[:, 1]).all()
        moved[weight] = text.draw(np.arange(99), np.random.default_rng(0)).divergence(tail).item()
    assert 0 < moved[30.0] < moved[0.0] / 3


def test_pieces_are_whole_distinct_and_drawn_as_many_as_rows_of_preferences(cut):
    count = sum((len(cut.model.processor.tokenizer(text)["input_ids"]) - 1) // 3 for text in PROSE)
    column = HeldText.of(cut, [*PROSE, *PROSE], rows=7, tokens=3)
    assert (len(column), len(column.packs)) == (7, count)
    held = column.with_reference(LanguageTail(cut))
    assert held.digest() != column.digest()
    for rows, wanted in ((2, 2), (count + 5, count)):
        drawn = held.draw(np.arange(rows), np.random.default_rng(0))
        assert len(drawn.texts.labels) == len(drawn.reference) == 3 * wanted


def test_text_that_cannot_be_held(cut):
    with pytest.raises(DataError, match=r"(?s)rows: must be at least 1, got 0.*tokens: must be at least 1, got -1"):
        HeldText.of(cut, PROSE, rows=0, tokens=-1)
    with pytest.raises(DataError, match=r"none of 1 texts has more than 500 tokens"):
        HeldText.of(cut, PROSE[:1], rows=1, tokens=500)
    with pytest.raises(DataError, match=r"with_reference\(model\)"):
        HeldText.of(cut, PROSE, rows=1).draw(np.arange(1), np.random.default_rng(0))
    with pytest.raises(ModelError, match=r"weight.*got -1"):
        Held(Preferring(), -1)

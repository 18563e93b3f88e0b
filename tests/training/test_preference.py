"""Preference losses against their definitions, and what training on them does."""

import math

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch

from kit.adapters.language import adapt_language
from kit.data.rows import Preference
from kit.errors import DataError, ModelError
from kit.models.activations import ActivationStore
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.preference_packs import PreferencePacks, likelihoods
from kit.training.fit import fit
from kit.training.preference import Preferring, dpo, drift, ipo, kto
from kit.training.preference_rows import PreferenceRows

POLICY = torch.tensor([[-3.0, -5.0], [-8.0, -2.5], [-1.0, -1.5]])
REFERENCE = torch.tensor([[-4.0, -4.5], [-8.5, -2.0], [-1.25, -1.0]])
TOKENS = torch.tensor([[2.0, 4.0], [5.0, 1.0], [1.0, 2.0]])
ONE, TWO, THREE = noise_pictures(3)
ROWS = [
    Preference("a", ONE, "What colour is it?", "red", "a big blue triangle"),
    Preference("b", TWO, "Is there a triangle?", "no, there is none", "yes", 0.5),
    Preference("c", ONE, "Is there a triangle?", "yes", "no"),
    Preference("d", THREE, "Say yes", "yes", "I would rather not"),
    Preference("e", None, "Which?", "teal", "grey", 0.25),
    Preference("f", None, "Say yes", "yes", "no, I would not"),
]
ASKED = {"steps": 4, "batch_size": 6, "lr": 0.01, "weight_decay": 0.0}


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def each(of):
    """A loss by its definition, for each row's log-ratios."""
    return [of(*(POLICY[row] - REFERENCE[row]).tolist(), row) for row in range(3)]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_a_logistic_loss_on_the_difference_of_log_ratios(smoothing):
    margins = torch.tensor([1.0, 0.5, 0.25])
    wanted = each(
        lambda chosen, rejected, row: (
            -(1 - smoothing) * math.log(sigmoid(0.3 * (chosen - rejected) - 0.7 * float(margins[row])))
            - smoothing * math.log(sigmoid(-0.3 * (chosen - rejected) + 0.7 * float(margins[row])))
        )
    )
    found = dpo(POLICY, REFERENCE, beta=0.3, smoothing=smoothing, offset=0.7 * margins)
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_dpo_starts_at_ln_2_and_at_the_offset_above_it():
    assert dpo(POLICY, POLICY, beta=0.1).tolist() == pytest.approx([math.log(2)] * 3)
    assert dpo(POLICY, POLICY, beta=0.1, offset=1.0).tolist() == pytest.approx([math.log1p(math.e)] * 3)


def test_ipo_asks_for_a_lead_of_a_certain_size_per_token():
    wanted = each(
        lambda chosen, rejected, row: (
            (chosen / float(TOKENS[row, 0]) - rejected / float(TOKENS[row, 1]) - 1 / (2 * 0.4)) ** 2
        )
    )
    assert ipo(POLICY, REFERENCE, TOKENS, beta=0.4).tolist() == pytest.approx(wanted, rel=1e-5)


def test_kto_weighs_gains_and_losses_against_the_drift():
    strayed = drift(torch.tensor([-2.0, -3.0]), torch.tensor([-2.5, -3.5]))
    assert float(strayed) == 0.5
    assert float(drift(torch.tensor([-9.0]), torch.tensor([-2.5]))) == 0.0
    wanted = each(lambda chosen, rejected, _: (2 - sigmoid(0.3 * (chosen - 0.5)) - sigmoid(0.3 * (0.5 - rejected))) / 2)
    assert kto(POLICY, REFERENCE, strayed, beta=0.3).tolist() == pytest.approx(wanted, rel=1e-5)


def test_all_wrong_settings_are_told_at_once():
    with pytest.raises(ModelError) as told:
        Preferring("dop", beta=0, smoothing=0.5, offset=-1)
    text = str(told.value)
    assert "'dop' is unknown. Did you mean 'dpo'?\n  Allowed: dpo, ipo, kto." in text
    assert all(part in text for part in ("beta: must", "got 0\n", "smoothing: must", "got 0.5", "offset: must"))
    with pytest.raises(ModelError, match=r"(?s)smoothing: 'ipo' has none.*offset: 'ipo' has none"):
        Preferring("ipo", smoothing=0.1, offset=1.0)


def made(vision, language, store, *, mismatch=False, **options):
    """A cut model, its tail, and a column with the reference of the start."""
    model = tiny_stitch(vision, language, entry_layer=0)
    adapt_language(model, **({"rank": 4} | options))
    cut = LanguageCut(model, ActivationStore(store))
    tail = LanguageTail(cut).eval()
    return cut, tail, PreferencePacks.of(cut, ROWS, mismatch=mismatch).with_reference(tail)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_the_preferred_answers_become_likelier_than_the_others(tiny_vision, tiny_language, tmp_path, kind):
    _, tail, column = made(tiny_vision, tiny_language, tmp_path, mismatch=kind == "kto")
    done = fit(tail, Preferring(kind), [column], **ASKED | {"steps": 15})
    start = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5}[kind]
    assert done.losses[0] == pytest.approx(start, rel=1e-4), "the policy begins as its reference"
    assert done.losses[-1] < 0.9 * start
    gained = likelihoods(tail, column).answers - column.reference[:, :2]
    assert (gained[:, 0] > gained[:, 1]).all()


def test_an_offset_asks_more_of_stronger_votes(tiny_vision, tiny_language, tmp_path):
    _, tail, column = made(tiny_vision, tiny_language, tmp_path)
    batch = column.draw(np.arange(6))
    wanted = np.mean([math.log1p(math.exp(2 * row.margin)) for row in ROWS])
    assert Preferring(offset=2.0)(tail, batch).item() == pytest.approx(wanted, rel=1e-4)


def test_parts_of_a_batch_are_the_batch_and_a_resumed_run_is_the_same_run(tiny_vision, tiny_language, tmp_path):
    def run(**more):
        _, tail, column = made(tiny_vision, tiny_language, tmp_path / "store", dropout=0.2 * ("checkpoint" in more))
        done = fit(tail, Preferring(), [column], **ASKED | more)
        return done, torch.cat([one.detach().flatten() for one in tail.parameters()])

    (whole, weights), (parts, others) = run(), run(accumulate=3)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-5)
    whole, weights = run(checkpoint=tmp_path / "one")
    run(checkpoint=tmp_path / "two", stop_after=2)
    resumed, others = run(checkpoint=tmp_path / "two")
    assert (resumed.resumed_at, resumed.losses) == (2, whole.losses)
    assert torch.equal(others, weights)


def test_a_column_without_what_the_objective_asks_for(tiny_vision, tiny_language, tmp_path):
    cut, tail, column = made(tiny_vision, tiny_language, tmp_path)
    with pytest.raises(DataError, match=r"(?s)reference.*not computed.*train on column\.with_reference\(model\)"):
        Preferring()(tail, PreferencePacks.of(cut, ROWS).draw(np.arange(2)))
    with pytest.raises(DataError, match=r"(?s)'kto' asks for mismatched answers.*mismatch=True"):
        Preferring("kto")(tail, column.draw(np.arange(2)))


@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_a_model_that_is_not_cut_gives_the_same_losses(tiny_vision, tiny_language, tmp_path, kind):
    cut, tail, column = made(tiny_vision, tiny_language, tmp_path, mismatch=kind == "kto")
    whole = PreferenceRows.of(cut.model, ROWS, mismatch=kind == "kto").with_reference(cut.model.model)
    torch.testing.assert_close(whole.reference, column.reference, rtol=1e-4, atol=1e-4)
    losses = [fit(tail, Preferring(kind), [column], **ASKED).losses]
    cut, _, _ = made(tiny_vision, tiny_language, tmp_path)
    losses.append(fit(cut.model.model, Preferring(kind), [whole], **ASKED).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0]

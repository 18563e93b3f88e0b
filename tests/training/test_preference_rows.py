"""Preferences on real architectures that are not cut: every architecture learns them, and none loses its picture."""

import dataclasses

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from peft import LoraConfig, get_peft_model
from tiny_models import load_tiny

from kit.data.rows import Preference
from kit.errors import DataError
from kit.models.preference_packs import likelihoods
from kit.training.fit import fit
from kit.training.preference import Preferring
from kit.training.preference_rows import PreferenceRows

ONE, TWO = noise_pictures(2, size=32)
ROWS = [
    Preference("a", ONE, "What colour?", "red", "a blue one"),
    Preference("b", TWO, "Is there a triangle?", "no", "yes, a triangle", 0.5),
    Preference("c", ONE, "Which?", "teal", "grey"),
]


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl", "paligemma"])
def test_lora_learns_what_was_preferred_with_the_base_as_reference(tiny_folders, name):
    model = load_tiny(tiny_folders(name))
    model.model = get_peft_model(model.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    column = PreferenceRows.of(model, ROWS)
    before = column.with_reference(model.model, batch_size=2)
    fit(model.model, Preferring(), [before], steps=6, batch_size=3, lr=0.02)
    with model.model.disable_adapter():
        again = column.with_reference(model.model)
    torch.testing.assert_close(again.reference, before.reference, rtol=1e-4, atol=1e-4)
    gained = likelihoods(model.model, column).answers - before.reference
    assert (gained[:, 0] > gained[:, 1]).all()
    assert len({one.digest() for one in (column, before, dataclasses.replace(before, margins=before.margins * 2))}) == 3


def test_all_faults_are_told_at_once(tiny_folders):
    model = load_tiny(tiny_folders("smolvlm"))
    bad = [
        Preference("void", ONE, "Which?", "", "red"),
        Preference("same", ONE, "Which?", "red", " red"),
        Preference("mark", ONE, "Which <image>?", "red", "blue"),
        Preference("long", ONE, "Which?", "red", "blue " * 300),
    ]
    with pytest.raises(DataError) as told:
        PreferenceRows.of(model, [*ROWS, *bad])
    text = str(told.value)
    for part in ("chosen answer is empty (void)", "same (same)", "mark (chosen), mark (rejected)", "(long (rejected))"):
        assert part in text, text
    with pytest.raises(DataError, match="past the context of 20 tokens"):
        PreferenceRows.of(model, ROWS, max_length=20)


def test_likelihoods_are_the_models_own(tiny_folders):
    model = load_tiny(tiny_folders("llava"))
    column = PreferenceRows.of(model, ROWS, mismatch=True)
    found = likelihoods(model.model, column, batch_size=3)
    for row in range(3):
        for side in range(2):
            batch = column.texts.draw(np.array([2 * row + side]), np.random.default_rng(0))
            tokens = int((batch["labels"] >= 0).sum())
            with torch.no_grad():
                loss = model.model(**batch).loss
            assert float(found.answers[row, side]) == pytest.approx(-float(loss) * tokens, rel=1e-4)
            assert int(found.tokens[row, side]) == tokens
    assert found.as_reference().shape == (3, 3)

"""Strengths at equal style, against a general optimiser and against what simulated raters like."""

import numpy as np
import pytest
from scipy.optimize import minimize

from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.ranking import Comparisons, bradley_terry
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.study import Study
from kit.humaneval.style import length_leads, style_controlled
from kit.humaneval.table import LEFT, RIGHT, TIE, VoteTable


def liking_length(taste, *, strengths=(0.5, 0.0, -0.5), items=60, raters=3, side=0.0, ties=0.0, seed=0):
    """Votes by raters whom a lead in length moves by so many log-odds; model 2 writes the longest answers."""
    generator = np.random.default_rng(seed)
    table = simulated_votes([0.0] * len(strengths), raters=raters, items=items, tie=0.0, seed=seed)
    lengths = generator.normal(size=(items, len(strengths))) + np.arange(len(strengths))
    lead = lengths[table.item, table.left] - lengths[table.item, table.right]
    gap = np.asarray(strengths)[table.left] - np.asarray(strengths)[table.right] + taste * lead + side
    luck = generator.random(len(table))
    answer = np.where(luck < 1 / (1 + np.exp(-gap)), LEFT, RIGHT)
    answer[generator.random(len(table)) < ties] = TIE
    columns = [table.left, table.right, answer.astype(np.int8), table.rater, table.item, table.kind, table.ms]
    return VoteTable(table.models, table.raters, table.items, *columns), lead


def test_it_is_the_maximum_of_the_likelihood():
    table, lead = liking_length(0.8, side=0.3, ties=0.1)
    found = style_controlled(table, {"length": lead})
    won = np.select([table.answer == LEFT, table.answer == RIGHT], [1.0, 0.0], 0.5)

    def loss(values):
        strengths = np.array([values[0], values[1], -values[0] - values[1]])
        gap = strengths[table.left] - strengths[table.right] + values[2] * lead / lead.std() + values[3]
        return float((np.logaddexp(0, gap) - won * gap).sum())

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    mine = [effect.value for effect in (*found.strengths.values(), *found.style.values())]
    assert mine == pytest.approx([best[0], best[1], -best[0] - best[1], best[2], best[3]], abs=1e-5)
    assert found.votes == len(table)


def test_without_styles_it_is_bradley_terry():
    table, _ = liking_length(0.0, ties=0.1)
    found = style_controlled(table, {}, side=False)
    assert [one.value for one in found.strengths.values()] == pytest.approx(
        bradley_terry(Comparisons.of(table)).strengths, abs=1e-8
    )
    assert not found.style


def test_what_length_won_is_not_credited_to_the_model():
    """Raters like length and nothing else: plainly ranked, the model of long answers is far ahead."""
    table, lead = liking_length(1.0, strengths=(0.0, 0.0, 0.0), items=150)
    plain, styled = style_controlled(table, {}, side=False), style_controlled(table, {"length": lead})
    assert plain.strengths["model 2"].low > 0.5
    assert styled.strengths["model 2"].low < 0 < styled.strengths["model 2"].high
    assert styled.style["length"].low < lead.std() < styled.style["length"].high
    assert styled.style["side"].low < 0 < styled.style["side"].high


def test_intervals_hold_what_they_promise():
    held = []
    for seed in range(120):
        table, lead = liking_length(0.5, items=50, side=0.2, seed=seed)
        style = style_controlled(table, {"length": lead}).style
        held += [style["side"].low < 0.2 < style["side"].high]
        held += [style["length"].low < 0.5 * lead.std() < style["length"].high]
    assert 0.91 <= np.mean(held) <= 0.99, "of 240"


def test_lengths_come_from_the_studys_texts():
    outputs = {"a": Output(text="xxxx"), "b": Output(text="xx")}
    study = Study("s", "Which?", ("a", "b"), ("r",), items=(Item("i", outputs, "p"),))
    table = VoteTable.of(["a", "b"], ["b", "a"], ["left", "right"], items=["i", "i"])
    assert length_leads(study, table) == pytest.approx([1 / 3, -1 / 3])
    with pytest.raises(StudyError, match="the study has no such output"):
        length_leads(study, VoteTable.of(["a"], ["c"], ["left"], items=["i"]))


def test_what_cannot_be_told_is_said():
    table, lead = liking_length(0.5, items=10, ties=0.1)
    with pytest.raises(StudyError, match=r"(?s)style: length: has shape \(3,\).*style: words: 1 leads are no numbers"):
        style_controlled(table, {"length": np.ones(3), "words": np.where(np.arange(len(table)) == 4, np.nan, lead)})
    all_won = VoteTable.of(["a", "a"], ["b", "c"], ["left", "left"])
    with pytest.raises(StudyError, match="style: "):
        style_controlled(all_won, {})
    told = np.where(table.answer == LEFT, 1.0, -1.0)
    with pytest.raises(StudyError, match="a style tells every outcome"):
        style_controlled(table.only(table.answer != TIE), {"told": told[table.answer != TIE]})
    with pytest.raises(StudyError, match="there are no votes"):
        style_controlled(table.only(np.zeros(len(table), bool)), {})

"""Rubric means and agreement against plain numpy and the krippendorff package."""

import json

import krippendorff
import numpy as np
import pytest
from small_studies import cast, make_study

from kit.humaneval.errors import StudyError
from kit.humaneval.rubrics import rubric_agreement, rubric_means
from kit.humaneval.schedule import Task


@pytest.fixture
def votes():
    study = make_study(
        n=30, design="likert", rubric={"good": tuple("12345"), "short": ("no", "yes")}, raters=("ana", "ben", "cy")
    )
    generator = np.random.default_rng(0)
    found = []
    for item in range(30):
        for condition, lift in (("base", 0), ("adapted", 1)):
            level = generator.integers(1, 4) + lift
            for rater in study.raters:
                points = {"good": int(np.clip(level + generator.integers(-1, 2), 1, 5)), "short": 1}
                found.append(cast(study, Task(f"item {item}", (condition,)), json.dumps(points), rater=rater))
    found.append(cast(study, Task("item 3", ("base",)), "skip"))
    found.append(cast(study, Task("item 3", ("base",), "repeat"), json.dumps({"good": 5, "short": 2})))
    return found


def test_means_by_condition(votes):
    found = rubric_means(votes)
    base = [vote for vote in votes if vote.shown == ("base",) and vote.kind == "first" and vote.answer != "skip"]
    points = [json.loads(vote.answer)["good"] for vote in base]
    assert found["good"]["base"].value == pytest.approx(np.mean(points))
    assert found["good"]["base"].n == 90
    assert found["good"]["base"].low < found["good"]["base"].value < found["good"]["base"].high
    assert "clusters" in found["good"]["base"].method
    assert found["good"]["adapted"].low > found["good"]["base"].value
    assert found["short"]["base"].value == 1


def test_agreement_by_criterion(votes):
    found = rubric_agreement(votes)
    assert list(found) == ["good"]  # everybody said 1 of the other
    matrix = np.full((3, 60), np.nan)
    for vote in votes:
        if vote.kind == "first" and vote.answer != "skip":
            unit = int(vote.item.split()[1]) * 2 + (vote.shown == ("adapted",))
            matrix[("ana", "ben", "cy").index(vote.rater), unit] = json.loads(vote.answer)["good"]
    theirs = krippendorff.alpha(matrix, level_of_measurement="ordinal")
    assert found["good"].value == pytest.approx(theirs)


def test_votes_that_are_no_points():
    with pytest.raises(StudyError, match="there are no points among the votes"):
        rubric_means([cast(make_study(), Task("item 1", ("base", "adapted")))])

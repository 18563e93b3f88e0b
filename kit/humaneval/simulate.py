"""Simulated raters, for tests, planning and dry runs: never to be taken for people."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from kit.errors import Fault, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.ranking import Floats
from kit.humaneval.schedule import Task
from kit.humaneval.store import Store
from kit.humaneval.study import Study
from kit.humaneval.table import BOTH_BAD, LEFT, RIGHT, TIE, VoteTable
from kit.humaneval.votes import Vote

NAME = "simulated"  # what a simulated rater's name begins with
KNOWN = {"right": 3.0, "wrong": -3.0}  # what gold items' outputs appeal, log-odds


def simulated_votes(
    strengths: Sequence[float],
    *,
    raters: int,
    items: int,
    share: float = 1.0,
    rater_sd: float = 0.0,
    item_sd: float = 0.0,
    tie: float = 0.5,
    left_bias: float = 0.0,
    seed: int = 0,
) -> VoteTable:
    """Return votes of raters and prompts that differ, under Davidson's model.

    Args:
        strengths: The models' log-odds, m of them; models are called "model 0", "model 1", …
        raters: How many raters.
        items: How many prompts.
        share: Share of (rater, prompt, pair) that is voted on, in random order, 0 < share <= 1.
        rater_sd: Standard deviation of a rater's own taste for each model, log-odds.
        item_sd: Standard deviation of a prompt's own bias for each model, log-odds.
        tie: Davidson's tie parameter; 0 for no ties. A tenth of the ties are "both bad".
        left_bias: Log-odds that the left side has in advance.
        seed: Seed.
    """
    generator = np.random.default_rng(seed)
    taste = rater_tastes(len(strengths), raters=raters, rater_sd=rater_sd, seed=seed)
    bias = generator.normal(size=(items, len(strengths))) * item_sd
    pairs = np.array(list(combinations(range(len(strengths)), 2)))
    every = np.indices((raters, items, len(pairs))).reshape(3, -1)
    rater, item, pair = generator.permutation(every[:, generator.random(every.shape[1]) < share], axis=1)
    sides = generator.permuted(pairs[pair], axis=1)
    appeal = np.asarray(strengths) + taste[rater] + bias[item]
    rows = np.arange(len(rater))
    gap = appeal[rows, sides[:, 0]] - appeal[rows, sides[:, 1]] + left_bias
    won, lost = np.exp(gap / 2), np.exp(-gap / 2)
    luck = generator.random(len(rows)) * (won + lost + tie)
    tied = np.where(generator.random(len(rows)) < 0.1, BOTH_BAD, TIE)
    answer = np.select([luck < won, luck < won + lost], [LEFT, RIGHT], tied)
    zeros = np.zeros(len(rows))
    return VoteTable(
        tuple(f"model {number}" for number in range(len(strengths))),
        tuple(f"simulated rater {number}" for number in range(raters)),
        tuple(f"item {number}" for number in range(items)),
        sides[:, 0].astype(np.int32), sides[:, 1].astype(np.int32), answer.astype(np.int8),
        rater.astype(np.int32), item.astype(np.int32), zeros.astype(np.int8), zeros.astype(np.int32),
    )  # fmt: skip


def rater_tastes(models: int, *, raters: int, rater_sd: float, seed: int) -> Floats:
    """Return the tastes of ``simulated_votes``' raters for each model, log-odds, shape (raters, models)."""
    return np.random.default_rng([seed, 1]).normal(size=(raters, models)) * rater_sd


def at_reliability(taste: Mapping[tuple[str, str], float], reliability: float) -> dict[tuple[str, str], float]:
    """Return appeals by which raters choose the better of an item's two outputs with a chance of ``reliability``.

    Args:
        taste: How good each output truly is, on any scale, by (item, condition); two conditions an item. Two that are
            equally good are a coin's.
        reliability: Above 0.5, below 1.

    Raises:
        StudyError: a reliability out of range, or items with another number of outputs; all at once.
    """
    by_item: dict[str, dict[str, float]] = {}
    for (item, condition), good in taste.items():
        by_item.setdefault(item, {})[condition] = good
    faults = [
        Fault(f"taste: {item}", f"two outputs are compared, got {len(own)}")
        for item, own in by_item.items()
        if len(own) != 2
    ]
    if not 0.5 < reliability < 1:
        faults.append(Fault("reliability", f"must be above 0.5 and below 1, got {reliability!r}"))
    raise_faults(faults, StudyError)
    reach = math.log(reliability / (1 - reliability)) / 2
    found = {}
    for item, own in by_item.items():
        (one, good), (other, also) = own.items()
        found[item, one] = reach * ((good > also) - (good < also))
        found[item, other] = -found[item, one]
    return found


def vote_simulated(
    study: Study,
    store: Store,
    appeal: Mapping[tuple[str, str], float],
    *,
    rater_sd: float = 0.0,
    tie: float = 0.5,
    left_bias: float = 0.0,
    most_each: int | None = None,
    seed: int = 0,
) -> int:
    """Let a pairwise study's raters, all of them simulated, answer all that they are asked, and return how many votes.

    Every vote goes the way that a person's goes: handed out, answered once, committed. Votes have no seconds, since
    nobody took any.

    Args:
        study: A registered study whose raters' names begin with "simulated".
        store: Its store.
        appeal: How good each output is, log-odds, by (item, condition).
        rater_sd: Standard deviation of a rater's own taste for each condition, log-odds.
        tie: Davidson's tie parameter; 0 for no ties.
        left_bias: Log-odds that the left side has in advance.
        most_each: After how many votes a rater stops; None for nobody. With ``raters_per_pair=1`` the next one goes on.
        seed: Seed.

    Raises:
        StudyError: a rater whose name does not say that it is simulated; all of them at once. Another design.
        StoreError: the database did not answer.
    """
    fix = f"call it '{NAME} …'"
    real = [rater for rater in study.raters if not rater.startswith(NAME)]
    raise_faults([Fault("simulate", f"{rater!r} may be a person", fix) for rater in real], StudyError)
    if study.design != "pairwise":
        raise StudyError.of("simulate", f"votes are simulated for the design pairwise, and this is {study.design}")
    tastes = rater_tastes(len(study.conditions), raters=len(study.raters), rater_sd=rater_sd, seed=seed)
    generator, count = np.random.default_rng(seed), 0

    def worth(task: Task, side: int, taste: Mapping[str, float]) -> float:
        name = task.shown[side]
        return KNOWN[name] if task.kind == "gold" else appeal[task.item, name] + taste[name]

    for rater, own in zip(study.raters, tastes, strict=True):
        taste, before = dict(zip(study.conditions, own, strict=True)), count
        while (most_each is None or count - before < most_each) and (task := store.hand_out(study, rater, holder=NAME)):
            won = math.exp((worth(task, 0, taste) - worth(task, 1, taste) + left_bias) / 2)
            luck = generator.random() * (won + 1 / won + tie)
            answer = "left" if luck < won else "right" if luck < won + 1 / won else "tie"
            name = str(uuid.UUID(bytes=generator.bytes(16), version=4))
            count += store.record(study, Vote.on(study, task, rater=rater, answer=answer, uuid=name, client=NAME))
    return count

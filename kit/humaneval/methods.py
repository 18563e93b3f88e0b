"""A paragraph for a methods section: what was asked of whom, fixed when, and counted how."""

from __future__ import annotations

from kit.humaneval.simulate import NAME
from kit.humaneval.study import Study
from kit.humaneval.table import FIRST, GOLD, IDENTICAL, REPEAT, VoteTable

ASKED = {
    "pairwise": "Two outputs were shown side by side; the answers were left, right, tie and both bad",
    "best_of": "All outputs on an item were shown together and ranked, best first",
}


def methods(study: Study, table: VoteTable) -> str:
    """Return how outputs were compared, in sentences that the numbers can be checked by.

    Args:
        study: A study of the design "pairwise" or "best_of".
        table: Its votes (``Store.table``).
    """
    first, again, gold, identical = (int((table.kind == kind).sum()) for kind in (FIRST, REPEAT, GOLD, IDENTICAL))
    asked = "all of them" if study.raters_per_pair is None else f"{study.raters_per_pair} of them"
    what = f"{len(study.conditions)} conditions on {len(study.items)} items, {asked} being asked about each pair"
    order = f"the order of items and the sides were drawn by rater and item (seed {study.seed}) and logged"
    if study.informative:
        chosen = f"{study.informative:.0%} of the comparisons came next where a vote told most about the ranking so far"
        order = f"{chosen}, the others at random, with sides drawn by rater and item (seed {study.seed}), all logged"
    checks = f"{study.repeats:.0%} of a rater's comparisons came again with sides swapped"
    apart = f"{again} repeats, {gold} gold votes, {identical} pairs of identical outputs (ties, shown to nobody)"
    stop, rope = f"an anytime-valid test at alpha {study.stop.alpha:g}", f"{study.stop.rope:g} around a score of 0.5"
    spans = "intervals by prompt for these raters and two-way sandwich intervals for new ones"
    sentences = [
        f"{_who(study)} compared {what}, with the question: {study.question!r}",
        f"{ASKED[study.design]}; raters saw no names, and {order}",
        f"{checks}, and {study.gold_share:.0%} had a known answer",
        f"Counted were {first} votes; {apart} and {table.skipped} skips were kept apart",
        f"The stopping rule was {stop}, practical equivalence being within {rope}",
        f"Strengths are Davidson's, with {spans}",
        f"The protocol was fixed before the first vote; its SHA-256 is {study.digest}",
    ]
    return ". ".join(sentences) + "."


def _who(study: Study) -> str:
    simulated = sum(rater.startswith(NAME) for rater in study.raters)
    who = f"{len(study.raters)} raters" if len(study.raters) != 1 else "One rater"
    if not simulated:
        return who
    if simulated == len(study.raters):
        return f"{who}, all of them simulated by a program and none a person,"
    return f"{who}, {simulated} of them simulated by a program,"

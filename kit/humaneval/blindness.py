"""Whether a study is blind: what a rater, or whoever sees the files, could tell the conditions apart by."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from kit.humaneval.study import Study
from kit.humaneval.traits import Trait, Value, traits_of
from kit.intervals import exact
from kit.result import Measurement

ALPHA = 0.05  # chance of a false alarm over all traits and pairs together
UNTAGGED = {".wav", ".flac", ".mp3"}  # sounds that raters get without their tags (kit.humaneval.media)
TOLD = 3  # words of a rule that are named


@dataclass(frozen=True)
class Clue:
    """Something by which the outputs of two conditions can be told apart.

    Args:
        first: One condition.
        second: The other one.
        trait: By what.
        rule: How: "the greater one is adapted".
        guessed: The share of items in which the rule, made from the other items, names the right one.
    """

    first: str
    second: str
    trait: Trait
    rule: str
    guessed: Measurement


@dataclass(frozen=True)
class Blindness:
    """What might give the conditions away.

    Args:
        clues: What tells them apart more often than by chance, what raters see first.
        named: Texts with a condition's name in them that another output of their item has not: the item, whose text,
            and the name.
        traits: Names of what was looked at.
        items: How many items there were.
        notes: What could not be looked at.
    """

    clues: tuple[Clue, ...]
    named: tuple[tuple[str, str, str], ...]
    traits: tuple[str, ...]
    items: int
    notes: tuple[str, ...]

    @property
    def is_blind(self) -> bool:
        """Whether nothing that reaches a rater tells the conditions apart, as far as the items show."""
        return not self.named and not any(clue.trait.seen for clue in self.clues)


def blindness(study: Study) -> Blindness:
    """Return what might tell a study's conditions apart.

    For each trait and pair of conditions a rule is made from all other items (the greater one is …; this word is …'s)
    and guesses which output of an item is whose. A trait is a clue when it guesses right in more items than a coin
    would: lower end of the exact interval above 1/2, its level corrected for the number of rules. With fewer than
    about ten items nothing can be seen that way, and a note says so.
    """
    made = {item.id: {name: traits_of(item.outputs[name]) for name in study.conditions} for item in study.items}
    traits = sorted({trait for by in made.values() for found in by.values() for trait in found}, key=lambda t: t.name)
    pairs = list(combinations(study.conditions, 2))
    rules = max(1, len(traits) * len(pairs))
    clues = []
    for trait in traits:
        for first, second in pairs:
            both = [
                (by[first][trait], by[second][trait])
                for by in made.values()
                if trait in by[first] and trait in by[second]
            ]
            if both and (found := _clue(first, second, trait, both, level=1 - ALPHA / rules)):
                clues.append(found)
    clues.sort(key=lambda clue: (not clue.trait.seen, -clue.guessed.value))
    names = tuple(trait.name for trait in traits)
    return Blindness(tuple(clues), tuple(_named(study)), names, len(study.items), tuple(_notes(study, rules)))


def _clue(first: str, second: str, trait: Trait, both: Sequence[tuple[Value, Value]], *, level: float) -> Clue | None:
    numbers = [(one, other) for one, other in both if isinstance(one, float) and isinstance(other, float)]
    if numbers:
        points, rule = _by_size(first, second, numbers)
    else:
        sets = [(one, other) for one, other in both if isinstance(one, frozenset) and isinstance(other, frozenset)]
        points, rule = _by_words(first, second, sets)
    # A tie is a coin thrown: half of a right guess. The interval takes whole ones, and fewer rather than more.
    right, n = sum(points), len(points)
    span = exact(math.floor(right), n, level=level)
    if span.low <= 0.5:
        return None
    method = f"rule from the other items; {span.method}, corrected for the number of rules"
    return Clue(
        first,
        second,
        trait,
        rule,
        Measurement(right / n, "share", n, span.low, 1.0 if right == n else span.high, level, method, 0.5),
    )


def _by_size(first: str, second: str, both: Sequence[tuple[float, float]]) -> tuple[list[float], str]:
    """Return one point for each right guess, a half for each that is open, and the rule in words."""
    signs = [(one > other) - (one < other) for one, other in both]
    total = sum(signs)
    greater = first if total > 0 else second
    return [_point((total - sign) * sign) for sign in signs], f"the greater one is {greater}"


def _by_words(
    first: str, second: str, both: Sequence[tuple[frozenset[str], frozenset[str]]]
) -> tuple[list[float], str]:
    """The same for sets of words: by how much oftener each condition has them, in all other items."""
    counts = Counter(word for one, _ in both for word in one)
    counts.subtract(word for _, other in both for word in other)
    seen = Counter(word for pair in both for words in pair for word in words)
    points = []
    for one, other in both:
        only = [(word, 1) for word in one - other] + [(word, -1) for word in other - one]
        # Without this item's own say, and by log-odds, so that a rare word that is always one's own weighs most.
        score = sum(side * _log_odds(counts[word] - side, seen[word] - 1) for word, side in only)
        points.append(_point(score))
    telling = sorted(counts, key=lambda word: (-abs(_log_odds(counts[word], seen[word])), word))
    of = [f"{word!r} is {first if counts[word] > 0 else second}" for word in telling[:TOLD] if counts[word]]
    return points, ", ".join(of)


def _log_odds(difference: int, total: int) -> float:
    return math.log((total + difference + 1) / (total - difference + 1))


def _point(score: float) -> float:
    return 0.5 if abs(score) < 1e-12 else float(score > 0)


def _named(study: Study) -> list[tuple[str, str, str]]:
    patterns = {name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in study.conditions}
    found = []
    for item in study.items:
        for name, pattern in patterns.items():
            with_it = [whose for whose, output in item.outputs.items() if pattern.search(output.text)]
            if len(with_it) < len(item.outputs):
                found += [(item.id, whose, name) for whose in with_it]
    return found


def _notes(study: Study, rules: int) -> list[str]:
    found = []
    n = len(study.items)
    if exact(n, n, level=1 - ALPHA / rules).low <= 0.5:
        found.append(f"{n} items are too few to tell a clue from chance")
    suffixes = {output.audio.suffix.lower() for item in study.items for output in item.outputs.values() if output.audio}
    if other := sorted(suffixes - {".wav"}):
        found.append(f"durations are read from WAV files only, not from {', '.join(other)}: compare the file sizes")
    if tagged := sorted(suffixes - UNTAGGED):
        fix = "take them out (ffmpeg -map_metadata -1), or give WAV or FLAC"
        found.append(f"tags in {', '.join(tagged)} reach the browser, where who looks for them finds them: {fix}")
    return found

"""A study: the protocol of a blind human comparison, checked as a whole and hashed before the first vote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from kit.errors import Fault, did_you_mean, listed, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.items import GOLD_OUTPUTS, Item

DESIGNS = ("pairwise", "likert", "best_of")
MOST_INFORMATIVE = 0.9  # of the comparisons, chosen; the others keep every pair asked


@dataclass(frozen=True)
class Stop:
    """When to stop, fixed in advance.

    Args:
        alpha: Chance of a false verdict, over all looks together; 0 < alpha < 1.
        rope: Half-width of the region of practical equivalence around a win share of 1/2; 0 <= rope < 0.5.
        max_votes: Votes per pair of conditions after which the study ends undecided.
    """

    alpha: float = 0.05
    rope: float = 0.05
    max_votes: int = 2000

    def faults(self, where: str) -> Iterator[Fault]:
        """Give what is wrong with the rule."""
        if not _is_number(self.alpha) or not 0 < self.alpha < 1:
            yield Fault(f"{where}.alpha", f"must be above 0 and below 1, got {self.alpha!r}")
        if not _is_number(self.rope) or not 0 <= self.rope < 0.5:
            yield Fault(f"{where}.rope", f"must be at least 0 and below 0.5, got {self.rope!r}")
        yield from _whole(f"{where}.max_votes", self.max_votes, at_least=1)


@dataclass(frozen=True)
class Study:
    """The protocol of a blind human comparison.

    Args:
        name: Its name in the store.
        question: What the raters are asked.
        conditions: What is compared; raters never see these names.
        raters: Who is asked.
        items: What the conditions were asked, each with every condition's output.
        design: "pairwise" (left, right, tie, both bad), "likert" (each output by a rubric) or "best_of" (all outputs
            of an item ranked).
        rubric: For "likert": the labels of each criterion, from worst to best.
        gold: Items whose right answer is known, with the outputs "right" and "wrong"; for "pairwise".
        repeats: Share of comparisons that a rater gets a second time, sides swapped.
        gold_share: Share of gold items among a rater's comparisons.
        raters_per_pair: How many raters judge each pair of outputs; None for all of them.
        informative: Share of the comparisons that come next where a vote tells most about the ranking; the others are
            random. For "pairwise" with three conditions or more (``pairing.py``).
        stop: The stopping rule.
        seed: What the random order is drawn from.
        source: Where it was read, for messages; no part of the protocol.

    Raises:
        StudyError: anything wrong in it; all faults at once.
    """

    name: str
    question: str
    conditions: tuple[str, ...]
    raters: tuple[str, ...]
    items: tuple[Item, ...] = field(hash=False)
    design: str = "pairwise"
    rubric: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    gold: tuple[Item, ...] = field(default=(), hash=False)
    repeats: float = 0.10
    gold_share: float = 0.05
    raters_per_pair: int | None = None
    informative: float = 0.0
    stop: Stop = field(default_factory=Stop)
    seed: int = 0
    source: str = field(default="study", compare=False, repr=False)

    def __post_init__(self) -> None:
        found = [*_name_faults(self), *_design_faults(self), *_number_faults(self), *_item_faults(self)]
        raise_faults(found, StudyError)

    @cached_property
    def by_id(self) -> Mapping[str, Item]:
        """Items and gold items by id."""
        return {item.id: item for item in (*self.items, *self.gold)}

    def protocol(self) -> dict[str, Any]:
        """Return all that the study fixes, as JSON values; files by their SHA-256.

        What came with a later kit is in it only where it is used: the hashes of earlier studies stay.
        """
        later = {"informative": self.informative} if self.informative else {}
        return {
            "name": self.name,
            "question": self.question,
            "design": self.design,
            "rubric": {name: list(labels) for name, labels in self.rubric.items()},
            "conditions": list(self.conditions),
            "raters": list(self.raters),
            "items": {item.id: item.protocol() for item in self.items},
            "gold": {item.id: item.protocol() for item in self.gold},
            "repeats": self.repeats,
            "gold_share": self.gold_share,
            "raters_per_pair": self.raters_per_pair,
            **later,
            "stop": asdict(self.stop),
            "seed": self.seed,
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the protocol, to be published before the first vote."""
        return protocol_digest(self.protocol())


def protocol_digest(protocol: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a protocol's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def changes(before: Mapping[str, Any], after: Mapping[str, Any], *, where: str) -> list[Fault]:
    """Return one fault for each place in which two protocols differ, in order of place."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    found = []
    for place in sorted({*old, *new}):
        if place not in new:
            found.append(Fault(f"{where}: {place}", f"was {_short(old[place])} and is gone"))
        elif place not in old:
            found.append(Fault(f"{where}: {place}", f"is new: {_short(new[place])}"))
        elif old[place] != new[place]:
            found.append(Fault(f"{where}: {place}", f"was {_short(old[place])} and is {_short(new[place])}"))
    return found


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        place = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, place)
        else:
            yield place, value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _name_faults(study: Study) -> Iterator[Fault]:
    where = study.source
    names = {"name": [study.name], "conditions": study.conditions, "raters": study.raters, "rubric": study.rubric}
    for key, values in {**names, "items": [item.id for item in (*study.items, *study.gold)]}.items():
        yield from _id_faults(f"{where}: {key}", values)
    if not isinstance(study.question, str) or not study.question.strip():
        yield Fault(f"{where}: question", f"must be a sentence, got {study.question!r}", "write what raters are asked")
    if not study.raters:
        yield Fault(f"{where}: raters", "nobody is asked", "name at least one rater")
    if not study.items:
        yield Fault(f"{where}: items", "there are none", "give at least one")


def _id_faults(where: str, names: Iterable[object]) -> Iterator[Fault]:
    seen: set[object] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or "|" in name or len(name) > 200:
            fix = "use printable characters without '|', at most 200, in quotes"
            yield Fault(where, f"{name!r} is no name", fix)
        elif name in seen:
            yield Fault(where, f"{name!r} is there twice", "give each its own name")
        seen.add(name)


def _design_faults(study: Study) -> Iterator[Fault]:
    where = study.source
    if study.design not in DESIGNS:
        what = f"no such design: {study.design!r}.{did_you_mean(study.design, DESIGNS)}"
        yield Fault(f"{where}: design", what, allowed=f"Allowed: {listed(DESIGNS)}.")
    least = 1 if study.design == "likert" else 2
    if len(study.conditions) < least:
        yield Fault(f"{where}: conditions", f"{len(study.conditions)} given", f"name at least {least}")
    for name in sorted({*study.conditions} & {*GOLD_OUTPUTS}):
        yield Fault(f"{where}: conditions", f"{name!r} is what gold items call an output", "call it something else")
    if (study.design == "likert") != bool(study.rubric):
        what = "is missing" if study.design == "likert" else f"belongs to the design likert, and this is {study.design}"
        yield Fault(f"{where}: rubric", what, "give each criterion its labels, or set the design")
    for name, labels in study.rubric.items():
        if len(labels) < 2:
            yield Fault(f"{where}: rubric.{name}", f"has {len(labels)} labels", "give at least two, from worst to best")
    if study.gold and study.design != "pairwise":
        yield Fault(f"{where}: gold", f"belongs to the design pairwise, and this is {study.design}", "leave it out")


def _number_faults(study: Study) -> Iterator[Fault]:
    where = study.source
    for key in ("repeats", "gold_share"):
        value = getattr(study, key)
        if not _is_number(value) or not 0 <= value <= 0.5:
            yield Fault(f"{where}: {key}", f"must be a share between 0 and 0.5, got {value!r}")
    if not _is_number(study.informative) or not 0 <= study.informative <= MOST_INFORMATIVE:
        what = f"must be a share between 0 and {MOST_INFORMATIVE}, got {study.informative!r}"
        yield Fault(f"{where}: informative", what, "the rest stays random, so that no early accident locks a pair out")
    elif study.informative and (study.design != "pairwise" or len(study.conditions) < 3):
        what = f"chooses among pairs, and this is {study.design} with {len(study.conditions)} conditions"
        yield Fault(f"{where}: informative", what, "leave it out, or compare three conditions or more pairwise")
    if study.raters_per_pair is not None:
        yield from _whole(f"{where}: raters_per_pair", study.raters_per_pair, at_least=1)
    yield from _whole(f"{where}: seed", study.seed, at_least=0)
    yield from study.stop.faults(f"{where}: stop")


def _item_faults(study: Study) -> Iterator[Fault]:
    for item in study.items:
        yield from item.faults(f"{study.source}: items.{item.id}", study.conditions)
    for item in study.gold:
        yield from item.faults(f"{study.source}: gold.{item.id}", GOLD_OUTPUTS)


def _whole(where: str, value: object, *, at_least: int) -> Iterator[Fault]:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        yield Fault(where, f"must be a whole number of at least {at_least}, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

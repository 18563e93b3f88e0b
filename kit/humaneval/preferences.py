"""Votes as preference rows, for training: for kit, for ``datasets`` and for TRL."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.data.picture import Picture, is_svg
from kit.data.rows import Preference, Rows
from kit.data.splits import split_of
from kit.errors import Fault, KitError
from kit.humaneval.errors import StudyError
from kit.humaneval.files import write_rows
from kit.humaneval.items import Item
from kit.humaneval.study import Study
from kit.humaneval.votes import SKIP, Vote

if TYPE_CHECKING:
    from datasets import Dataset

TIE, BOTH_BAD = "tie", "both_bad"
NO_TEXTS = "its outputs are no texts"
Pair = tuple[str, str]


def preference_rows(study: Study, votes: Iterable[Vote]) -> Rows[Preference]:
    """Return one row for each pair of outputs that raters preferred one of.

    A rater who answered a pair and its repeat differently is left out of that pair; one who answered it the same
    twice counts once. Pairs that end level, that most called both bad, or whose outputs are no texts make no row:
    ``faults`` names them. A ranking counts as all its pairs.

    Args:
        study: The study.
        votes: Its votes, without those that were taken back (``Store.votes``).

    Returns:
        Rows whose margin is the lead, (for - against) / votes, in (0, 1]; ``meta`` holds the counts and the
        conditions. All rows of an item are in one split, by a hash of its id.
    """
    ballots: dict[tuple[str, Pair], _Ballots] = defaultdict(_Ballots)
    for vote in votes:
        if vote.kind in {"first", "repeat"} and vote.answer != SKIP:
            for pair, answer in _answers(vote):
                ballots[vote.item, pair].by_rater[vote.rater].append(answer)
    items, faults = [], []
    for (name, pair), given in sorted(ballots.items()):
        item = study.by_id.get(name)
        made = _row(study, item, pair, given) if item is not None else "the study has no such item"
        if isinstance(made, Preference):
            items.append(made)
        else:
            faults.append(Fault(f"{study.name}: {name}: {' | '.join(pair)}", made))
    return Rows(tuple(items), f"study:{study.name}", "all", faults=tuple(faults), skipped=len(faults))


def to_dataset(rows: Sequence[Preference]) -> Dataset:
    """Return rows as a ``datasets.Dataset`` in TRL's conversational preference format.

    The columns are prompt, chosen, rejected (lists of messages), margin, and, where a row has a picture, images.

    Raises:
        StudyError: no rows, or ``datasets`` is not installed.
    """
    try:
        from datasets import Dataset, Features, Image, Value
    except ModuleNotFoundError as error:
        fix = "pip install 'multimodal-kit[hub]', or write .jsonl"
        raise StudyError.of("preferences", "the package datasets is not installed", fix) from error
    values = list(_trl(rows))
    text = Value("string")
    content = [{"type": text, "text": text}] if any(row.picture for row in rows) else text
    messages = [{"role": text, "content": content}]
    features = {"prompt": messages, "chosen": messages, "rejected": messages, "margin": Value("float64")}
    if any(row.picture for row in rows):
        features["images"] = [Image()]
    return Dataset.from_list(values, features=Features(features))


def write_preferences(rows: Sequence[Preference], path: Path) -> int:
    """Write rows in TRL's conversational format and return how many: .parquet, pictures inside, or .jsonl for texts.

    Raises:
        StudyError: no rows, another ending, pictures in JSONL, or a file that cannot be written.
    """
    check_ending(path)
    if path.suffix.lower() == ".parquet":
        table = to_dataset(rows).data.table  # its schema tells `datasets` which column holds pictures
        from pyarrow import parquet

        part = path.with_name(f".{path.name}.part")
        try:
            parquet.write_table(table, part)
            part.replace(path)
        except OSError as error:
            raise StudyError.of(str(path), f"cannot be written: {error.strerror or error}") from error
        finally:
            part.unlink(missing_ok=True)
        return len(rows)
    if any(row.picture for row in rows):
        raise StudyError.of(str(path), "JSONL holds no pictures", "write .parquet")
    return write_rows(path, _trl(rows), {})


def check_ending(path: Path) -> None:
    """Look whether a file's name says that it can hold preferences.

    Raises:
        StudyError: it ends in neither .jsonl nor .parquet.
    """
    if path.suffix.lower() not in {".jsonl", ".parquet"}:
        what = f"preferences are not kept in {path.suffix or 'a file without ending'}"
        fix = f"write --out {path.with_suffix('.jsonl')}" if path.suffix else ""
        raise StudyError.of(str(path), what, fix, "Allowed: .jsonl, .parquet.")


@dataclass
class _Ballots:
    """What each rater said of one pair: a condition that won, TIE or BOTH_BAD."""

    by_rater: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def consistent(self) -> list[str]:
        return [answers[0] for answers in self.by_rater.values() if len({*answers}) == 1]


def _answers(vote: Vote) -> Iterator[tuple[Pair, str]]:
    """Give each pair that a vote says something about, in alphabetical order, with who won."""
    if vote.answer in {"left", "right"}:
        yield _pair(*vote.shown), vote.shown[("left", "right").index(vote.answer)]
    elif vote.answer in {TIE, BOTH_BAD}:
        yield _pair(*vote.shown), vote.answer
    elif vote.answer.startswith("["):
        order = [vote.shown[place] for place in json.loads(vote.answer)]
        for better, worse in combinations(order, 2):
            yield _pair(better, worse), better


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _row(study: Study, item: Item, pair: Pair, ballots: _Ballots) -> Preference | str:
    """Return a pair's row, or why there is none."""
    answers = ballots.consistent()
    if not answers:
        return "every rater answered it differently the second time"
    counts = {name: answers.count(name) for name in (*pair, TIE, BOTH_BAD)}
    if 2 * counts[BOTH_BAD] > len(answers):
        return "most called both bad"
    chosen, rejected = sorted(pair, key=lambda name: -counts[name])
    lead = counts[chosen] - counts[rejected]
    if not lead:
        return f"level, {counts[chosen]} to {counts[rejected]}"
    texts = [item.outputs[name] for name in (chosen, rejected)]
    if any(output.kind != "text" for output in texts):
        return NO_TEXTS
    meta = {"study": study.digest, "chosen": chosen, "rejected": rejected, "votes": len(answers)}
    meta |= {"for": counts[chosen], "against": counts[rejected], "left_out": len(ballots.by_rater) - len(answers)}
    return Preference(
        f"{item.id}|{pair[0]}|{pair[1]}", item.picture, item.prompt, texts[0].text, texts[1].text,
        lead / len(answers), split_of(item.id), meta,
    )  # fmt: skip


def _trl(rows: Sequence[Preference]) -> Iterator[dict[str, Any]]:
    if not len(rows):
        raise _nothing(rows.faults if isinstance(rows, Rows) else ())
    pictured = any(row.picture for row in rows)

    def said(role: str, text: str, picture: Picture | None = None) -> list[dict[str, Any]]:
        parts = [{"type": "image", "text": None}] if picture else []
        return [{"role": role, "content": [*parts, {"type": "text", "text": text}] if pictured else text}]

    for row in rows:
        values: dict[str, Any] = {
            "prompt": said("user", row.prompt, row.picture),
            "chosen": said("assistant", row.chosen),
            "rejected": said("assistant", row.rejected),
            "margin": row.margin,
        }
        if pictured:
            values["images"] = [{"bytes": _raster(row.picture), "path": None}] if row.picture else []
        yield values


def _nothing(left_out: Sequence[Fault]) -> KitError:
    """Return the error that says why there are no rows."""
    if not left_out:
        return StudyError.of("preferences", "there are no rows", "vote first; ties and inconsistent votes make none")
    reasons = Counter(fault.what for fault in left_out)
    said = ", ".join(f"{count} because {reason}" for reason, count in reasons.most_common(3))
    fix = "vote on more items, or by more raters"
    if set(reasons) == {NO_TEXTS}:
        fix = "preferences are learnt from texts; for the votes themselves take --format csv, parquet or battles"
    return StudyError.of("preferences", f"there are no rows; left out were {said}", fix)


def _raster(picture: Picture) -> bytes:
    """Return a picture's file, or a PNG of it where it is an SVG, which no other library draws."""
    import io

    content = picture.read()
    if not is_svg(content):
        return content
    drawn = io.BytesIO()
    picture.open().save(drawn, "PNG")
    return drawn.getvalue()

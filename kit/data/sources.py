"""Rows by one source string."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from kit.data.checks import OnBad
from kit.data.rows import SPLITS, Conversation, ImageText, Question, Row, Rows
from kit.data.splits import NAMES
from kit.errors import DataError, Fault, did_you_mean
from kit.parts.reference import Reference, parse

_KINDS: Mapping[str, type[Row]] = MappingProxyType(
    {"pairs": ImageText, "questions": Question, "conversations": Conversation}
)


def load_rows(
    source: str | Reference,
    *,
    split: str,
    language: str = "en",
    limit: int | None = None,
    seed: int = 0,
    on_bad: OnBad = "raise",
    base: Path | None = None,
    kind: Literal["pairs", "questions", "conversations"] | None = None,
) -> Rows[Any]:
    """Return the rows of a source: ImageText rows, Question rows where it holds questions, or Conversation rows.

    Args:
        source: ``openmoji``, ``easy-vqa``, ``instruct`` (conversations about both), ``folder:PATH`` or
            ``hub:ORG/NAME[@REVISION]``.
        split: "train", "val", "test" or "all".
        language: Language of OpenMoji's names; other sources have their own and take only "en".
        limit: At most so many rows, drawn by a hash of ``seed`` and id; None for all.
        seed: For ``limit``, and for how ``instruct`` is mixed.
        on_bad: "raise" states all faults at once; "skip" leaves bad rows out and counts them.
        base: The folder that relative paths start from; the working directory by default.
        kind: What the caller can use: "pairs" (ImageText), "questions" (Question) or "conversations" (Conversation);
            None for any.

    Raises:
        DataError: the source, the split or the rows are not as they must be; all faults at once.
        PartError: a part cannot be pulled.
    """
    split = NAMES.get(split, split)
    reference = source if isinstance(source, Reference) else parse(source, kind="data", base=base)
    _check(reference, split=split, language=language, limit=limit, on_bad=on_bad)
    rows = _load(reference, split=split, language=language, on_bad=on_bad, limit=limit, seed=seed)
    other = next((row for row in rows if kind is not None and not isinstance(row, _KINDS[kind])), None)
    if other is not None:
        held = next(name for name, row_type in _KINDS.items() if isinstance(other, row_type))
        what = f"holds {'image-text pairs' if held == 'pairs' else held}, and {kind} are needed"
        raise DataError(Fault(reference.text, what, "name another source"))
    return rows if limit is None else rows.limit(limit, seed=seed)


def _check(reference: Reference, *, split: str, language: str, limit: int | None, on_bad: str) -> None:
    faults = []
    if split not in {*SPLITS, "all"}:
        what = f"no split {split!r}.{did_you_mean(split, SPLITS)}"
        faults.append(Fault(reference.text, what, allowed="Splits: train, val, test, all."))
    if language != "en" and reference.body != "openmoji":
        what = f"has no captions by language, and {language!r} is asked for"
        faults.append(Fault(reference.text, what, "leave language at 'en'; only openmoji is named in many"))
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        faults.append(Fault("limit", f"must be a whole number of at least 1, or None, got {limit!r}"))
    if on_bad not in {"raise", "skip"}:
        faults.append(Fault("on_bad", f"must be 'raise' or 'skip', got {on_bad!r}"))
    if faults:
        raise DataError(faults)


def _load(reference: Reference, *, split: str, language: str, on_bad: OnBad, limit: int | None, seed: int) -> Rows[Any]:
    if reference.scheme == "folder":
        from kit.data import folder

        assert reference.path is not None  # noqa: S101  # parse gives every folder its path
        return folder.load(reference.path, name=reference.text, split=split, on_bad=on_bad)
    if reference.scheme == "hub":
        from kit.data import hub

        return hub.load(
            reference.body,
            revision=reference.revision,
            name=reference.text,
            split=split,
            on_bad=on_bad,
            limit=limit,
            seed=seed,
        )
    if reference.body == "openmoji":
        from kit.data import openmoji

        return openmoji.load(split=split, language=language)
    if reference.body == "instruct":
        from kit.data import instruct

        return instruct.load_conversations(split, seed=seed)
    from kit.data import easy_vqa

    return easy_vqa.load(split=split)

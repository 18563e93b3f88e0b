"""Data sets of the Hugging Face Hub, through the ``datasets`` library; pictures stay in its files until opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data.checks import OnBad, in_split, picture_faults, settle
from kit.data.folder import CAPTIONS
from kit.data.picture import Picture
from kit.data.rows import ImageText, Question, Rows
from kit.data.splits import NAMES, split_of
from kit.errors import DataError, Fault, did_you_mean, listed

_OPTIONAL = ("concept", "group", "split")


@dataclass(frozen=True)
class Cell:
    """Reads one picture's bytes out of a data set; can be pickled with its row."""

    table: Any
    index: int
    column: str

    def __call__(self) -> bytes:
        """Return the picture's bytes; raises OSError where there are none."""
        value = self.table[self.index][self.column]
        if value and value.get("bytes"):
            return bytes(value["bytes"])
        if value and value.get("path"):
            return Path(value["path"]).read_bytes()
        raise FileNotFoundError(f"row {self.index} has no picture")


def load(
    repository: str,
    *,
    revision: str | None,
    name: str,
    split: str,
    on_bad: OnBad = "raise",
    limit: int | None = None,
    seed: int = 0,
) -> Rows[Any]:
    """Return the rows of a data set: Question rows where it has questions and answers, else ImageText rows.

    The picture's column is found by its type, the caption's by its name (text or caption; a list of captions
    gives its first, the others go to ``meta["aliases"]``). The data set's own splits count; where it has only
    one, a hash of the caption (or, for questions, of the picture) decides.

    Args:
        repository: ORG/NAME on the Hub, or a local folder that ``datasets`` can load.
        revision: Branch, tag or commit.
        name: The source string, for messages.
        split: "train", "val", "test" or "all".
        on_bad: "raise" states the faults of all rows at once; "skip" leaves bad rows out and counts them.
        limit: At most so many rows; applied before pictures are checked, since a Hub's data set may be large.
        seed: For ``limit``.

    Raises:
        DataError: ``datasets`` is missing, the data set cannot be loaded, a column is missing, or bad rows.
    """
    tables = _tables(repository, revision, name)
    faults: list[Fault] = []
    rows: list[ImageText | Question] = []
    total = 0
    for own, whole in tables.items():
        image, columns = _columns(whole, f"{name}: {own}")
        table = whole.cast_column(image, _undecoded())
        wanted = [column for column in (*columns, *_OPTIONAL) if column in table.column_names]
        total += len(table)
        for index, values in enumerate(table.select_columns(wanted)):
            picture = Picture(f"{name}: {own}[{index}]", reader=Cell(table, index, image))
            row = _row(values, picture, columns, own if len(tables) > 1 else "", f"{own}/{index}")
            faults.append(row) if isinstance(row, Fault) else rows.append(row)
    found: Rows[Any] = Rows(tuple(rows), name=name, split=split, faults=tuple(faults), skipped=total - len(rows))
    settle(faults if not rows else (), "raise")
    found = in_split(found, split, [row.split for row in rows])
    return _settled(found if limit is None else found.limit(limit, seed=seed), on_bad)


def _settled(rows: Rows[Any], on_bad: OnBad) -> Rows[Any]:
    """Return the rows whose pictures open; raise or count the others."""
    broken = picture_faults([row.picture for row in rows])
    faults = (*rows.faults, *(fault for fault in broken if fault))
    settle(faults, on_bad)
    kept = [row for row, fault in zip(rows, broken, strict=True) if fault is None]
    if not kept:
        raise DataError(faults or Fault(rows.name, "holds no rows"))
    skipped = rows.skipped + len(rows) - len(kept)
    return dataclasses.replace(rows.only(kept), faults=faults, skipped=skipped)


def _tables(repository: str, revision: str | None, name: str) -> Mapping[str, Any]:
    """Return the data set's tables by its own split names."""
    try:
        import datasets
    except ImportError as error:
        fix = "pip install 'multimodal-kit[hub]'"
        raise DataError(Fault(name, "needs the package 'datasets', which is not installed", fix)) from error
    try:
        loaded = datasets.load_dataset(repository, revision=revision)
    except Exception as error:  # the library raises its own, the Hub's, pyarrow's and fsspec's errors
        what = f"cannot be loaded: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        fix = "check the name on https://huggingface.co/datasets, go online, or log in with `hf auth login`"
        raise DataError(Fault(name, what, fix)) from error
    return dict(loaded)


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _columns(table: Any, where: str) -> tuple[str, tuple[str, ...]]:
    """Return the picture's column, found by type, and the text's columns, found by name."""
    import datasets

    there: list[str] = list(table.column_names)
    images = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
    faults = []
    if len(images) != 1:
        what = f"needs one column of pictures, has {len(images)}{': ' + listed(images) if images else ''}"
        faults.append(Fault(where, what, allowed=f"Columns: {listed(there)}."))
    columns = tuple(column for column in CAPTIONS if column in there)[:1]
    if {"question", "answer"} <= set(there):
        columns = ("question", "answer")
    if not columns:
        near = did_you_mean("caption", there).replace("Did you mean", "Is it")
        what = f"no column 'text' or 'caption', nor 'question' and 'answer'.{near}"
        faults.append(
            Fault(where, what, "rename it in a copy: kit reads captions by name", f"Columns: {listed(there)}.")
        )
    if faults:
        raise DataError(faults)
    return images[0], columns


def _row(
    values: Mapping[str, Any], picture: Picture, columns: Sequence[str], own_split: str, identity: str
) -> ImageText | Question | Fault:
    """Return the row, or what is wrong with its texts."""
    texts = []
    aliases: tuple[str, ...] = ()
    for column in columns:
        value = values[column]
        if isinstance(value, list) and value and column in CAPTIONS and all(isinstance(one, str) for one in value):
            value, *others = value
            aliases = tuple(others)
        if not isinstance(value, str) or not value.strip():
            return Fault(f"{picture.name}: {column}", f"must be a text, got {value!r}")
        texts.append(value.strip())
    group = str(values.get("group") or "")
    given = NAMES.get(str(values.get("split") or ""), NAMES.get(own_split, ""))
    if len(texts) == 2:
        try:
            split = given or split_of(picture.digest())
        except DataError as error:  # no bytes to hash; the only fault that must be found this early
            return error.faults[0]
        return Question(identity, picture, texts[0], texts[1], group=group, split=split)
    concept = str(values.get("concept") or " ".join(texts[0].casefold().split()))
    meta = {"aliases": aliases} if aliases else {}
    return ImageText(identity, picture, texts[0], concept, group, given or split_of(concept), meta)

"""OpenMoji's pictures with the names that the emoji package gives them, split by concept.

A picture's twins (man, woman and person doing one thing; one hand to the left and to the right) share a
concept, and a concept is in one split only. A first trial without this found a fifth of its test pictures
with a twin in training, and those scored 0.72-0.85 against 0.15 for the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kit.data.picture import Picture
from kit.data.rows import ImageText, Rows
from kit.data.splits import split_of, together
from kit.errors import DataError, Fault, did_you_mean
from kit.parts.catalog import PARTS
from kit.parts.pull import get

# All of these are left out of a concept: who does it and which way it looks.
_PEOPLE = "man men woman women person people boy boys girl girls male female adult adults child mrs mx santa"
_DIRECTIONS = (
    "left right up down leftward rightward upward downward leftwards rightwards upwards downwards forward reverse "
    "oncoming facing front tilted pointed and"
)
_DROPPED = frozenset(f"{_PEOPLE} {_DIRECTIONS}".split())
_SAME = MappingProxyType({"merman": "mer", "mermaid": "mer", "merperson": "mer", "princess": "prince", "older": "old"})
_SKIN = re.compile(r"(medium[\s_-]*)?(light|medium|dark)[\s_-]*skin[\s_-]*tone")
# A shape of its own where all words were left out: man, woman, person, boy, girl and child are one concept.
_NOTHING_LEFT = "person"
_WHOLE = MappingProxyType(
    {
        "with crown": "prince",  # prince, princess and person with crown are one trio
        "bouvet island": "norway",  # one flag, drawn twice
    }
)


def concept(name: str) -> str:
    """Return the name without words for gender, skin and direction, in lower case.

    >>> concept("woman running facing right") == concept("man_running") == "running"
    True
    >>> concept("family: man, woman, boy"), concept("backhand index pointing left"), concept("girl")
    ('family', 'backhand index pointing', 'person')
    """
    text = re.sub(r"['’]s\b", "", _SKIN.sub(" ", name.casefold()))
    words = [_SAME.get(word, word) for word in re.findall(r"\w+|[#*]", text.replace("_", " ")) if word not in _DROPPED]
    joined = " ".join(words) or _NOTHING_LEFT
    return _WHOLE.get(joined, joined)


def human(name: str) -> str:
    """Return a name of the emoji package as people write it.

    >>> human(":grinning_face:"), human(":woman’s_hat:")
    ('grinning face', 'woman’s hat')
    """
    return " ".join(name.strip(":").replace("_", " ").split())


def languages() -> tuple[str, ...]:
    """Return the languages that the installed emoji package names emoji in."""
    import emoji

    return tuple(sorted(emoji.LANGUAGES))


def load(*, split: str, language: str = "en", size: int = 224) -> Rows[ImageText]:
    """Return emoji pictures with their names; pulls the part at first use.

    Args:
        split: "train", "val", "test" or "all".
        language: One of ``languages()``. Emoji without a name in it are left out.
        size: Width and height of a drawn picture, in pixels.

    Raises:
        DataError: an unknown language.
        PartError: OpenMoji cannot be pulled.
    """
    known = languages()
    if language not in known:
        what = f"the emoji package has no names in {language!r}.{did_you_mean(language, known)}"
        raise DataError(Fault("openmoji", what, allowed=f"Languages: {', '.join(known)}."))
    part = PARTS["openmoji"]
    named = _named(get(part) / "svg", language)
    keys = _keys(named)
    rows = [
        _row(path, data, keys[path], language=language, size=size)
        for path, data in sorted(named.items())
        if language in data and split in {"all", split_of(keys[path])}
    ]
    return Rows(tuple(rows), name="openmoji", split=split, licence=part.licence, attribution=part.attribution)


def _row(path: Path, data: Mapping[str, object], key: str, *, language: str, size: int) -> ImageText:
    english, text = human(str(data["en"])), human(str(data[language]))
    aliases = data.get("alias", [])
    assert isinstance(aliases, list)  # noqa: S101  # of str, in every release of the emoji package
    others = dict.fromkeys(human(alias) for alias in aliases if language == "en")
    return ImageText(
        id=path.stem,
        picture=Picture.at(path, size=size),
        text=text,
        concept=key,
        group="flag" if _is_flag(path.stem) else "emoji",
        split=split_of(key),
        meta={"language": language, "english": english, "aliases": tuple(name for name in others if name != text)},
    )


def _is_flag(points: str) -> bool:
    """Tell whether code points are the flag of a country or a region: two regional letters, or a tagged black flag."""
    return (points.startswith("1F1") and "-1F1" in points) or points.startswith("1F3F4-E00")


def _named(folder: Path, language: str) -> dict[Path, Mapping[str, object]]:
    """Return the emoji package's data by picture, without skin-tone variants.

    OpenMoji leaves the variation selector FE0F out of some file names; both spellings are tried.
    """
    import emoji

    emoji.config.load_language(language)
    pictures = {path.stem: path for path in folder.glob("*.svg")}
    named: dict[Path, Mapping[str, object]] = {}
    for text, data in emoji.EMOJI_DATA.items():
        points = [f"{ord(character):04X}" for character in text]
        if any("1F3FB" <= point <= "1F3FF" for point in points):
            continue
        full, bare = "-".join(points), "-".join(point for point in points if point != "FE0F")
        path = pictures.get(full) or pictures.get(bare)
        if path is not None and "en" in data:
            named.setdefault(path, data)
    return named


def _keys(named: Mapping[Path, Mapping[str, object]]) -> dict[Path, str]:
    """Return each picture's concept, one for all that share a concept or the very same drawing."""
    return together(
        {
            path: (concept(human(str(data["en"]))), hashlib.sha256(path.read_bytes()).hexdigest())
            for path, data in named.items()
        }
    )

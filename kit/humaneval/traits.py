"""What of an output could give its maker away: what raters see or hear of it, and what lies in its file."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

from kit.data.picture import Picture, is_svg
from kit.errors import KitError
from kit.humaneval.items import Output
from kit.humaneval.media import sound_type

Value = float | frozenset[str]


@dataclass(frozen=True)
class Trait:
    """A name for something that can be read off an output.

    Args:
        name: What it is: "length in characters".
        seen: Whether it reaches a rater. Pages and widgets draw pictures anew and name nothing, so that file names,
            formats, sizes and metadata stay behind; length, shape and duration do not. Sounds go out in the format
            that they are in.
    """

    name: str
    seen: bool


LENGTH = Trait("length in characters", True)
WORDING = Trait("wording", True)
SHAPE = Trait("width over height", True)
PIXELS = Trait("size in pixels", True)
COLOUR = Trait("colour or grey", True)
DURATION = Trait("duration in seconds", True)
SOUND = Trait("sample rate and channels", True)
SOUND_FORMAT = Trait("format of the sound", True)
NAME = Trait("file name", False)
FORMAT = Trait("file format", False)
BYTES = Trait("file size in bytes", False)
METADATA = Trait("EXIF and other metadata", False)

SEQUENCE = re.compile(r"[^\W\d_]+|[*#`|•-]|[.!?…]$", flags=re.MULTILINE)
EXIF_PRIVATE = 0x8769


def traits_of(output: Output) -> dict[Trait, Value]:
    """Return what can be read off an output: numbers, or sets of words for what has no size."""
    if output.picture is not None:
        return _picture_traits(output.picture)
    if output.audio is not None:
        return _audio_traits(output.audio)
    return _text_traits(output.text)


def words(text: str) -> frozenset[str]:
    """Return a text's words and marks, in lower case, each once; the first word also as such."""
    found = [word.lower() for word in SEQUENCE.findall(text)]
    return frozenset([*found, *(f"begins with {word}" for word in found[:1])])


def _text_traits(text: str) -> dict[Trait, Value]:
    return {LENGTH: float(len(text)), WORDING: words(text)}


def _file_traits(path: Path | None, content: bytes) -> dict[Trait, Value]:
    found: dict[Trait, Value] = {BYTES: float(len(content))}
    if path is not None:
        stem = re.findall(r"[^\W\d_]{2,}", path.stem.lower())
        found[NAME] = frozenset([*stem, f"in {path.parent.name}", path.suffix.lower()])
    return found


def _picture_traits(picture: Picture) -> dict[Trait, Value]:
    from PIL import Image

    content = picture.read()
    found = _file_traits(picture.path, content)
    if is_svg(content):
        return found | {FORMAT: frozenset({"SVG"})}
    try:
        image = picture.open()
        with Image.open(io.BytesIO(content)) as raw:
            exif = raw.getexif()
            tags = {f"EXIF {tag}={str(value)[:60]}" for tag, value in exif.items() if tag != EXIF_PRIVATE}
            texts = {f"{key}={str(value)[:60]}" for key, value in raw.info.items() if isinstance(value, str | int)}
            found[FORMAT] = frozenset({str(raw.format), str(raw.mode)})
            found[METADATA] = frozenset(tags | texts | {f"has {key}" for key in raw.info})
    except (KitError, OSError, ValueError, SyntaxError):
        return found  # the study's own check names a picture that cannot be opened
    found[SHAPE], found[PIXELS] = image.width / image.height, float(image.width * image.height)
    return found | {COLOUR: frozenset({"colour" if _has_colour(image) else "grey"})}


def _has_colour(image: object) -> bool:
    import numpy as np
    from PIL.Image import Image

    assert isinstance(image, Image)  # noqa: S101 - for mypy, which does not follow PIL
    small = np.asarray(image.resize((32, 32)), dtype=np.int16)
    return bool((small.max(axis=2) - small.min(axis=2) > 8).any())


def _audio_traits(path: Path) -> dict[Trait, Value]:
    import wave

    content = path.read_bytes()
    found = _file_traits(path, content) | {SOUND_FORMAT: frozenset({sound_type(content)})}
    try:
        with wave.open(str(path), "rb") as sound:
            found[DURATION] = sound.getnframes() / sound.getframerate()
            found[SOUND] = frozenset({f"{sound.getframerate()} Hz", f"{sound.getnchannels()} channels"})
    except (wave.Error, EOFError, ZeroDivisionError):
        pass  # no WAV: the file's size has to stand for its duration
    tags = {
        name for name in ("ID3", "TAG", "LIST", "APEv2", "ftyp") if name.encode() in (content[:4096] + content[-256:])
    }
    return found | {METADATA: frozenset(tags)}

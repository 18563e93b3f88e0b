"""Texts, pictures and sounds as a rater may get them: bytes without names, EXIF or tags that tell who made them."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kit.data.picture import Picture
from kit.errors import DataError
from kit.humaneval.items import Item, Output

if TYPE_CHECKING:
    from PIL.Image import Image

LOSSLESS_PIXELS = 1_000_000  # above, all pictures of a page become JPEG: a photo as PNG takes seconds on a phone
LONGEST_SIDE = 2048  # pixels; more than a screen shows
# How a sound file begins, and what it is then. The ending of its name does not count: names are not looked at.
SOUNDS = ((b"RIFF", "audio/wav"), (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3", "audio/mpeg"))


@dataclass(frozen=True)
class Media:
    """One thing to read, see or hear.

    Args:
        kind: "text", "picture" or "audio".
        text: The text.
        content: The file's bytes, made anew from the pixels or samples.
        media_type: What the bytes are, such as "image/png"; "text/plain" for a text.
    """

    kind: str
    text: str = ""
    content: bytes = b""
    media_type: str = "text/plain"


def prompt_media(item: Item) -> tuple[Media, ...]:
    """Return what an item asks: its picture, its sound, its text, as far as it has them.

    Raises:
        DataError: the picture cannot be opened, or the sound cannot be read.
    """
    found = list(_pictures([item.picture])) if item.picture is not None else []
    found += [_sound(item.audio)] if item.audio is not None else []
    return (*found, Media("text", item.prompt)) if item.prompt.strip() else tuple(found)


def output_media(outputs: Sequence[Output]) -> tuple[Media, ...]:
    """Return outputs that are shown together; their pictures all in one format, so that the format tells nothing.

    Raises:
        DataError: a picture cannot be opened, or a sound cannot be read.
    """
    drawn = iter(_pictures([output.picture for output in outputs if output.picture is not None]))
    found = []
    for output in outputs:
        if output.picture is not None:
            found.append(next(drawn))
        else:
            found.append(_sound(output.audio) if output.audio is not None else Media("text", output.text))
    return tuple(found)


def _pictures(pictures: Sequence[Picture]) -> list[Media]:
    images = [_fitted(picture.open()) for picture in pictures]
    large = any(image.width * image.height > LOSSLESS_PIXELS for image in images)
    found = []
    for image in images:
        image.info.clear()  # a colour profile or a comment would travel along
        file = io.BytesIO()
        if large:
            image.save(file, "JPEG", quality=95, subsampling=0)
        else:
            image.save(file, "PNG", compress_level=3)  # half the seconds of the default for a tenth more bytes
        found.append(Media("picture", content=file.getvalue(), media_type="image/jpeg" if large else "image/png"))
    return found


def _fitted(image: Image) -> Image:
    if max(image.size) > LONGEST_SIDE:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def _sound(path: Path) -> Media:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError.of(str(path), f"cannot be read: {error.strerror}", "put it back, and voting goes on") from error
    kind = sound_type(content)
    return Media("audio", content=_untagged(content, kind), media_type=kind)


def sound_type(content: bytes) -> str:
    """Return the media type of a sound file by its first bytes."""
    kind = next((kind for start, kind in SOUNDS if content.startswith(start)), "")
    return kind or ("audio/mp4" if content[4:8] == b"ftyp" else "audio/mpeg")


def _untagged(content: bytes, kind: str) -> bytes:
    """Return a sound file without its tags; those of Ogg and MP4 stay, which no part of kit can take out."""
    if kind == "audio/wav":
        return _plain_wave(content)
    if kind == "audio/flac":
        return _plain_flac(content)
    if content[:3] == b"ID3":  # four bytes of seven bits each say how long the tag is
        size = sum((byte & 0x7F) << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
        content = content[10 + size :]
    return content[:-128] if kind == "audio/mpeg" and content[-128:-125] == b"TAG" else content


def _plain_wave(content: bytes) -> bytes:
    file = io.BytesIO()
    try:
        with wave.open(io.BytesIO(content)) as given, wave.open(file, "wb") as plain:
            plain.setparams(given.getparams())
            plain.writeframes(given.readframes(given.getnframes()))
    except (wave.Error, EOFError):  # floating-point samples and the like; browsers play some of them
        return content
    return file.getvalue()


def _plain_flac(content: bytes) -> bytes:
    """Keep the one block that a player needs, which is the first, and mark it as the last."""
    place, last = 4, False
    while not last and place + 4 <= len(content):
        last = bool(content[place] & 0x80)
        place += 4 + int.from_bytes(content[place + 1 : place + 4])
    size = int.from_bytes(content[5:8])
    return content[:4] + bytes([content[4] | 0x80]) + content[5 : 8 + size] + content[place:]

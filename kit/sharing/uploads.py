"""What strangers send: pictures and texts, bounded before anything is done with them."""

from __future__ import annotations

import io
import unicodedata
import warnings
from pathlib import Path

from PIL import Image

from kit.data.picture import Picture, is_svg
from kit.errors import DataError, Fault

MOST_BYTES = 10_000_000  # of a picture's file; a phone's photograph has 3 to 6 MB
MOST_PIXELS = 25_000_000  # 75 MB as RGB; a phone's photograph has 12 to 24 million
LEAST_SIDE = 8  # pixels; a tower sees nothing in less
FORMATS = {"JPEG", "PNG", "WEBP", "GIF", "BMP"}
TEXT_CHARS = 500  # of a question or a description
LABELS = 50  # to choose among
LABEL_CHARS = 100
TAKEN = "JPEG, PNG, WebP, GIF or BMP"


def read_upload(path: Path | str | None) -> Image.Image:
    """Return an uploaded picture, upright and on white, RGB.

    Format and size are read from the head of the file, before any of it is decoded.

    Raises:
        DataError: nothing was sent, or not one of the formats, or more bytes or pixels than are taken, or a damaged
            file. Its text says nothing about this machine.
    """
    if not path:
        raise _refused("there is none", "choose one, or take an example")
    content = _bytes(Path(path))
    if is_svg(content):
        raise _refused("is an SVG, which can hold programs", f"send {TAKEN}")
    _check_head(content)
    try:
        return Picture("This picture", reader=lambda: content).open()
    except DataError as error:
        raise _refused(f"{error.faults[0].what.partition(':')[0]}", "send another") from error
    except MemoryError as error:
        raise _refused("is too large to be opened here", "make it smaller first") from error


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _refused(f"has {size / 1e6:.0f} MB; at most {MOST_BYTES // 1_000_000} are taken", "make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise _refused("is not here any more: uploads are deleted after some minutes", "send it again") from error


def _check_head(content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bombs: refused here with a number
            head = Image.open(io.BytesIO(content), formats=sorted(FORMATS))
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except Exception as error:
        # A hostile file may make a decoder raise anything; whatever it is, this is no picture for us.
        raise _refused(f"cannot be read as {TAKEN}", "send another") from error
    if head.width * head.height > MOST_PIXELS:
        raise _too_many_pixels()
    if min(head.size) < LEAST_SIDE:
        raise _refused(f"has less than {LEAST_SIDE} pixels on a side", "send a larger one")


def _too_many_pixels() -> DataError:
    return _refused(f"has more than the {MOST_PIXELS // 1_000_000} million pixels that are taken", "make it smaller")


def _refused(what: str, fix: str) -> DataError:
    return DataError(Fault("This picture", what, fix))


def clean_text(text: object, *, what: str = "This text", most: int = TEXT_CHARS) -> str:
    """Return a text without white space around it.

    Args:
        text: What was sent.
        what: What messages call it.
        most: Characters, at most.

    Raises:
        DataError: no text, an empty one, one that is too long, or one with control characters.
    """
    if not isinstance(text, str):
        raise DataError(Fault(what, "is no text", "write some words"))
    if len(text) > most:
        raise DataError(Fault(what, f"has {len(text):,} characters; at most {most} are taken", "make it shorter"))
    plain = text.replace("\r\n", "\n").strip(" \t\n")
    if not plain:
        raise DataError(Fault(what, "is empty", "write some words"))
    # Cs: halves of surrogate pairs, which no tokenizer can write down.
    if any(unicodedata.category(one) in {"Cc", "Cs"} and one not in "\n\t" for one in plain):
        raise DataError(Fault(what, "holds control characters", "type it anew"))
    return plain


def clean_labels(text: object) -> list[str]:
    """Return labels that were written with commas or line breaks between them, each once, in their order.

    Raises:
        DataError: fewer than two, too many, or one that is too long.
    """
    plain = clean_text(text, what="The list of labels", most=LABELS * LABEL_CHARS)
    labels = list(dict.fromkeys(one.strip() for one in plain.replace("\n", ",").split(",") if one.strip()))
    if not 2 <= len(labels) <= LABELS:
        what = f"holds {len(labels)}, and 2 to {LABELS} are taken"
        raise DataError(Fault("The list of labels", what, "write them with commas between"))
    return [clean_text(label, what="A label", most=LABEL_CHARS) for label in labels]

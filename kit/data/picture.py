"""One picture: on disk, or in a data set's own files, and opened only when somebody looks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import DataError, Fault

if TYPE_CHECKING:
    from PIL.Image import Image

# 50 million pixels are 150 MB as RGB. A file of some kilobytes can claim far more (a decompression bomb).
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Picture:
    """A picture that stays where it is until it is opened.

    Args:
        name: What error messages call it; a path or a place in a data set.
        path: The file; None where ``reader`` gives the bytes.
        reader: Returns the file's bytes; for pictures inside a data set's own files.
        size: Width and height that an SVG is drawn at, in pixels; other files keep their own size.
    """

    name: str
    path: Path | None = None
    reader: Callable[[], bytes] | None = field(default=None, compare=False, repr=False)
    size: int = 224

    @classmethod
    def at(cls, path: Path, *, size: int = 224) -> Picture:
        """Return the picture in a file."""
        return cls(str(path), path=path, size=size)

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        try:
            if self.path is not None:
                return self.path.read_bytes()
            if self.reader is not None:
                return self.reader()
        except OSError as error:
            raise DataError(Fault(self.name, f"cannot be read: {error.strerror or error}")) from error
        raise DataError(Fault(self.name, "is a picture without a file"))

    def open(self) -> Image:
        """Return the picture as PIL RGB; SVG is drawn at ``size`` x ``size``, transparency becomes white.

        Raises:
            DataError: not a picture, a damaged one, or one of more than 50 million pixels.
        """
        content = self.read()
        try:
            return _drawn(content, self.size) if is_svg(content) else _decoded(content)
        except DataError as error:
            raise DataError(Fault(self.name, error.faults[0].what, error.faults[0].fix)) from error

    def fault(self) -> Fault | None:
        """Return what is wrong with the picture, or None; decodes it at a reduced size where the format can."""
        try:
            content = self.read()
            _drawn(content, 16) if is_svg(content) else _decoded(content, reduce_to=64)
        except DataError as error:
            return Fault(self.name, error.faults[0].what, error.faults[0].fix)
        return None

    def digest(self) -> str:
        """Return a SHA-256 of the file's bytes, and for an SVG of the size that it is drawn at."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # Read once in a process: easy-VQA asks ten questions about each picture.
        content = self.read()
        drawn = f"\n{self.size}".encode() if is_svg(content) else b""
        return hashlib.sha256(content + drawn).hexdigest()


def is_svg(content: bytes) -> bool:
    """Tell whether a file's bytes are an SVG, by what it begins with."""
    head = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in content[:4096]
    )


def _drawn(content: bytes, size: int) -> Image:
    """Draw an SVG on a white square; 5 ms at 224 pixels, 3 of them for the PNG in between."""
    import io

    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(
            svg_string=content.decode("utf-8-sig"),
            width=size,
            height=size,
            background="#ffffff",
            skip_system_fonts=True,
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(Fault("picture", f"cannot be drawn as SVG: {error}")) from error
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.size == (size, size):
        return image
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def _decoded(content: bytes, *, reduce_to: int = 0) -> Image:
    """Decode any format that Pillow reads, upright and on white; JPEG at a reduced size if asked, which is quicker."""
    import io

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            what = f"has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are opened"
            raise DataError(Fault("picture", what, "make it smaller first"))
        if reduce_to:
            image.draft("RGB", (reduce_to, reduce_to))
        image.load()
        image = ImageOps.exif_transpose(image)
        if "A" in image.getbands() or "transparency" in image.info:
            clear = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        what = "is no picture that Pillow can read" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(Fault("picture", what)) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
        # Pillow's decoders raise all of these for damaged files.
        raise DataError(Fault("picture", f"is damaged: {error}")) from error

"""Two hundred things that nobody should send: one clear message each, nothing written outside the temporary folder."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kit.errors import DataError
from kit.sharing.courtesy import BROKEN, Bounds
from kit.sharing.demo import Demo
from kit.sharing.uploads import MOST_BYTES, clean_labels, clean_text, read_upload

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64">%s</svg>'
LEAKS = ("Traceback", 'File "', "/tmp/", "/root", "site-packages", ".py")


def encoded(kind: str, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, *, rows: int = 0) -> bytes:
    """Return a PNG whose head claims a size; it holds so many rows of zeros, which pack a thousand to one."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(rows)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def hostile_files() -> dict[str, bytes]:
    luck = random.Random(0)
    found: dict[str, bytes] = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        whole = encoded(kind)
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            found[f"truncated {kind} {share}"] = whole[: int(len(whole) * share)]
        for number in range(6):
            broken = bytearray(whole)
            for _ in range(30):
                broken[luck.randrange(8, 64)] = luck.randrange(256)
            found[f"damaged head {kind} {number}"] = bytes(broken)
    for width, height in ((50_000, 50_000), (100_000, 300), (2**31 - 1, 2**31 - 1), (1, 30_000_000), (6000, 5000)):
        found[f"claims {width} x {height}"] = png(width, height, rows=1)
    found["bomb"] = png(20_000, 20_000, rows=200)
    found["tiny"] = png(1, 1, rows=1)
    found["nothing"] = b""
    found["spaces"] = b" " * 5000
    found["11 MB"] = encoded("PNG") + bytes(11_000_000)
    for number, script in enumerate((
        b"<script>alert(1)</script>", b'<image href="file:///etc/passwd" width="64" height="64"/>',
        b'<image href="http://127.0.0.1:1/x.png" width="9" height="9"/>', b'<a onload="alert(1)"/>',
        b"<foreignObject><body>x</body></foreignObject>", b"<g>" * 5000,
    )):  # fmt: skip
        found[f"svg {number}"] = SVG % script
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 12))
    found["svg, a billion laughs"] = (
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY l0 "ha">' + laughs + b"]>" + SVG % b"&l9;"
    )
    others = {
        "html": b"<html><script>alert(1)</script></html>", "pdf": b"%PDF-1.7\n" + bytes(500),
        "elf": b"\x7fELF" + bytes(500),
        "zip": b"PK\x03\x04" + bytes(500), "python": b"import os\nos.system('id')\n", "json": b'{"a": 1}',
        "tiff": encoded("TIFF"), "ico": encoded("ICO"), "ppm": encoded("PPM"), "pcx": encoded("PCX"),
        "tga": encoded("TGA"),
        "im": encoded("IM"), "sgi": encoded("SGI"), "jpeg2000": encoded("JPEG2000"), "dds": b"DDS " + bytes(500),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "mp4": b"\x00\x00\x00\x18ftypmp42" + bytes(500),
        "gzip": zlib.compress(bytes(5000)), "wav": b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(50),
        "xbm": b"#define a_width 9\n",
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.", "fli": b"\x00\x00\x00\x00\x11\xaf" + bytes(200),
        "psd": b"8BPS\x00\x01" + bytes(500), "icns": b"icns" + bytes(200),
    }  # fmt: skip
    for number in range(40):
        found[f"noise {number}"] = luck.randbytes(200 * (number + 1))
    return {**found, **others}


def hostile_texts() -> dict[str, str]:
    found = {
        "empty": "",
        "spaces": " \t\n ",
        "1 MB": "a" * 1_000_000,
        "501 characters": "a" * 501,
        "1 MB of emoji": "🙂" * 250_000,
    }
    for code in [*range(9), *range(11, 13), *range(14, 32), 127, *range(128, 160, 4)]:
        found[f"control {code}"] = f"a {chr(code)} b"
    found["half a pair"] = "a \ud800 b"
    return found


FILES, TEXTS = hostile_files(), hostile_texts()


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_gets_one_clear_message(name: str, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(FILES[name])
    if name.startswith(("damaged", "truncated")) and (image := opened(path)) is not None:
        # Some damage leaves a picture: what is decoded is small and whole.
        assert image.width * image.height <= 25_000_000
        return
    with pytest.raises(DataError) as told:
        read_upload(path)
    (fault,) = told.value.faults
    assert fault.where == "This picture"
    assert fault.fix
    assert "\n" not in fault.what
    assert not any(leak in str(fault) for leak in (*LEAKS, str(tmp_path), "object at 0x"))


def opened(path: Path) -> Image.Image | None:
    try:
        return read_upload(path)
    except DataError:
        return None


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text_gets_one_clear_message(name: str) -> None:
    with pytest.raises(DataError) as told:
        clean_text(TEXTS[name])
    (fault,) = told.value.faults
    assert len(str(fault)) < 200
    assert TEXTS[name][:40].strip() not in str(fault) or not TEXTS[name].strip()


def test_there_are_two_hundred() -> None:
    assert len(FILES) + len(TEXTS) + len(PATHS) >= 200


def test_what_people_write_is_taken() -> None:
    assert clean_text("  was ist das?\r\n👩‍👩‍👧 ") == "was ist das?\n👩‍👩‍👧"
    assert clean_labels("cat, dog,\ncat , é") == ["cat", "dog", "é"]
    for wrong in ("cat", ",".join(map(str, range(60))), "a, " + "b" * 101):
        with pytest.raises(DataError):
            clean_labels(wrong)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_picture_is_taken(kind: str, tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(encoded(kind, (60, 40)))
    assert read_upload(tmp_path / "it").size == (60, 40)


# Through the page itself.

PATHS: list[Any] = [
    "/etc/passwd", "../../../etc/passwd", "/proc/self/environ", "file:///etc/passwd", "http://127.0.0.1:9/x.png",
    "https://example.com/x.png", "\x00", "a" * 5000, "", None, 7, ["a"], {"path": {"path": "/etc/passwd"}},
    "/dev/zero", "~/.ssh/id_rsa", "C:\\Windows\\win.ini", "data:image/png;base64,AAAA",
]  # fmt: skip


class Visitor:
    """Speaks to Gradio's interface as a hostile program would: no client library between."""

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, path: str, body: bytes, kind: str) -> tuple[int, str]:
        request = urllib.request.Request(self.address + path, body, {"content-type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def upload(self, name: str, content: bytes) -> tuple[int, str]:
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        return self.post(
            "/gradio_api/upload",
            head.encode() + content + f"\r\n--{mark}--\r\n".encode(),
            f"multipart/form-data; boundary={mark}",
        )

    def call(self, name: str, *data: Any) -> str:
        """Return what a call ends with: "complete", or the message that the visitor is shown."""
        status, said = self.post(f"/gradio_api/call/{name}", json.dumps({"data": data}).encode(), "application/json")
        if status != 200:
            return said
        address = f"{self.address}/gradio_api/call/{name}/{json.loads(said)['event_id']}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        return "complete" if events[-1] == "complete" else lines[-2 if not lines[-1] else -1]


def file(path: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


WRITTEN: list[str] = []
WATCHED = [False]


def _watch(event: str, given: tuple[Any, ...]) -> None:
    if not WATCHED[0] or event not in {"open", "os.mkdir", "os.rename", "os.link", "os.symlink"}:
        return
    if event == "open" and not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    WRITTEN.append(str(given[1] if event in {"os.rename", "os.link", "os.symlink"} else given[0]))


@pytest.fixture(scope="module")
def visitor(clip_demo: Demo) -> Iterator[Visitor]:
    """A visitor of a page in this process, all of whose writing is watched."""
    sys.addaudithook(_watch)
    visitor = Visitor(clip_demo.address)
    _, said = visitor.upload("cat.png", encoded("PNG"))
    assert visitor.call("label", file(json.loads(said)[0]), "cat, dog") == "complete"
    while any(thread.name == "kit-read" for thread in threading.enumerate()):
        time.sleep(0.05)  # the demo itself keeps what it read of its own pictures in kit's home
    WRITTEN.clear()
    WATCHED[0] = True
    yield visitor
    WATCHED[0] = False
    assert written_elsewhere() == set()  # of all of these tests that ran in this process


def plain(said: str) -> None:
    """Look that a visitor is told something, and nothing about this machine."""
    assert said != "complete"
    assert not any(leak in said for leak in LEAKS), said
    assert len(said) < 600


def test_hostile_uploads_through_the_page(visitor: Visitor, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [*list(FILES)[::9], "bomb", "svg 0", "11 MB"]:
        status, said = visitor.upload("cat.png", FILES[name])
        if len(FILES[name]) > MOST_BYTES:
            assert (status, "maximum allowed size" in said) == (413, True)
            continue
        assert status == 200, said
        said = visitor.call("label", file(json.loads(said)[0]), "cat, dog")
        if name.startswith(("damaged", "truncated")) and said == "complete":
            continue
        plain(said)
        assert "This picture" in said
    assert "Traceback" not in capsys.readouterr().err


def test_hostile_texts_through_the_page(visitor: Visitor) -> None:
    for name in ["empty", "1 MB", "501 characters", "control 0", "control 27", "half a pair"]:
        said = visitor.call("search", TEXTS[name], "en", False, 12)
        plain(said)
        assert "The description" in said, said
    for given in (
        ("a", "klingon", False, 12),
        ("a", "en", False, 10**9),
        ("a", "en", False, "x"),
        (7, "en", False, 3),
        ("a",),
    ):
        said = visitor.call("search", *given)
        if said != "complete":
            plain(said)
    assert visitor.call("search", "<script>alert(1)</script>", "en", False, 3) == "complete"


def test_names_of_files_that_are_not_theirs(visitor: Visitor) -> None:
    for path in PATHS:
        said = visitor.call("label", file(path), "cat, dog")
        plain(said)
        assert "root:" not in said


def test_names_of_uploads_lead_nowhere(visitor: Visitor) -> None:
    for name in (
        "../../../evil.png",
        "/evil.png",
        "a\\..\\evil.png",
        "x" * 400 + ".png",
        ".htaccess",
        "evil.png%00.sh",
    ):
        status, said = visitor.upload(name, encoded("PNG"))
        if status == 200:
            (path,) = json.loads(said)
            assert Path(path).resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"])


def test_a_huge_request_is_not_read(visitor: Visitor) -> None:
    connection = HTTPConnection(visitor.address.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/gradio_api/call/search")
    connection.putheader("content-length", "5000000")
    connection.endheaders()  # the answer comes before any of it was sent
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (413, {"detail": "This request is too large."})
    connection.close()


def written_elsewhere() -> set[str]:
    """Return what was opened to be written that lies in no temporary folder."""
    places = [Path(tempfile.gettempdir()).resolve(), Path(os.environ["GRADIO_TEMP_DIR"]).resolve()]
    named = {one for one in WRITTEN if not one.isdigit() and one != os.devnull}
    return {one for one in named if not any(Path(one).resolve().is_relative_to(place) for place in places)}


def test_nothing_is_written_elsewhere(visitor: Visitor) -> None:
    # Its own upload: which tests ran before it in this process is pytest-xdist's choice.
    _, said = visitor.upload("cat.png", encoded("PNG"))
    assert visitor.call("label", file(json.loads(said)[0]), "cat, dog") == "complete"
    assert WRITTEN, "the watch saw nothing, though an upload was written"
    assert written_elsewhere() == set()


def test_the_watch_can_see(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("")
    assert str(tmp_path / "seen") in WRITTEN


def test_what_breaks_tells_the_owner_alone(clip_demo: Demo, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from kit.sharing.finding import Finder

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of this machine")

    monkeypatch.setattr(Finder, "find", broken)
    said = Visitor(clip_demo.address).call("search", "a cat", "en", False, 3)
    assert BROKEN in said
    assert "secret" not in said
    assert "secret of this machine" in capfd.readouterr().err


def test_a_body_that_grows_is_cut() -> None:
    import asyncio

    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            seen.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"a" * 1_000_000, "more_body": True}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "path": "/gradio_api/call/search", "headers": []}
    asyncio.run(Bounds(app)(scope, receive, send))
    assert len(seen) == 4

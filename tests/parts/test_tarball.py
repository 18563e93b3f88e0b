"""A part from npm's registry: its tarball, held to the registry's hash, and only named files unpacked."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kit.errors import PartError
from kit.parts.catalog import PARTS, Part
from kit.parts.pull import get, verify
from kit.parts.tarball import integrity, unpack
from kit.parts.wheel import file_sha256

REAL = PARTS["onnxruntime-web"]
FILES = {"package/dist/run.js": b"run()", "package/dist/other.js": b"no", "package/package.json": b"{}"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry on this machine, which npm's own variable names, and a cache of its own."""
    folder = tmp_path / "registry"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "home"))
    yield folder
    server.shutdown()
    server.server_close()


def packed(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def part_of(registry: Path, name: str = "run-it", only: tuple[str, ...] = ("dist/run.js", "package.json")) -> Part:
    path = packed(registry / name / "-" / f"{name.rpartition('/')[2]}-1.0.0.tgz", FILES)
    return dataclasses.replace(
        REAL, name="mine", distribution=name, version="1.0.0", only=only, sha256=file_sha256(path),
        integrity=integrity(path),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["run-it", "@some/run-it"])
def test_only_what_is_needed_is_unpacked_and_verified(registry: Path, name: str) -> None:
    part = part_of(registry, name)
    folder = get(part)
    assert (folder / "dist/run.js").read_bytes() == b"run()"
    assert not (folder / "dist/other.js").exists()
    assert verify(part) == []
    (folder / "dist/run.js").write_bytes(b"evil!")
    assert "has sha256" in verify(part)[0].what


@pytest.mark.parametrize("changed", ["sha256", "integrity"])
def test_another_tarball_is_refused(registry: Path, changed: str) -> None:
    part = dataclasses.replace(part_of(registry), **{changed: "0" * 64})
    with pytest.raises(PartError, match="is not the tarball that kit pins") as caught:
        get(part)
    assert "Fix: check the registry" in str(caught.value)


def test_no_network_and_no_registry_say_what_to_do(
    registry: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    part = part_of(registry)
    with pytest.raises(PartError, match="cannot be fetched: HTTP Error 404"):
        get(dataclasses.replace(part, version="2.0.0"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{free_port}")
    with pytest.raises(PartError, match="go online and run `kit parts pull mine`"):
        get(part)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
    with pytest.raises(PartError, match="is no registry's address"):
        get(part)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_missing_or_a_link_is_said(tmp_path: Path) -> None:
    path = packed(tmp_path / "t.tgz", FILES)
    with tarfile.open(tmp_path / "link.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("package/dist/run.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    for tarball, only in ((path, "dist/none.js"), (tmp_path / "link.tgz", "dist/run.js"), (path, "dist")):
        with pytest.raises(PartError, match="holds no file package/"):
            unpack(dataclasses.replace(REAL, only=(only,)), tarball, tmp_path)


@pytest.mark.weights
def test_the_real_one_is_pinned_as_the_registry_says() -> None:
    folder = get("onnxruntime-web")
    assert verify("onnxruntime-web") == []
    assert (folder / "dist/ort-wasm-simd-threaded.wasm").read_bytes()[:4] == b"\0asm"
    assert '"license": "MIT"' in (folder / "package.json").read_text()
    assert f'"version": "{REAL.version}"' in (folder / "package.json").read_text()
    assert sum(
        path.stat().st_size for path in folder.rglob("*") if path.name != "kit-part.json" and path.is_file()
    ) == (REAL.unpacked_bytes)

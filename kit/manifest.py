"""A bundle's JSON without its weights: what it is, what it was built on, what it measured, and its files' hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kit.errors import BundleError, Fault, raise_faults

FILE = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Base:
    """Something that a bundle was built on: a model, or the data it was trained on.

    Args:
        source: The source string.
        digest: Identity of its content, hex.
        licence: SPDX identifier; may be empty.
        attribution: What cards and demos must print; may be empty.
        origin: Where it came from.
        rows: For data: how many rows were used; None for models.
        split: For data: the split.
    """

    source: str
    digest: str
    licence: str = ""
    attribution: str = ""
    origin: str = ""
    rows: int | None = None
    split: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Args:
        kind: What it is: "dual-encoder", "vision-language", "reward", or an export's ("onnx-…", "gguf-…").
        name: What people call it.
        bases: The models that it was built on.
        data: What it was trained on.
        parameters: What training was asked to do, as JSON values.
        results: A Result as JSON; empty when nothing was measured.
        parents: Digests of the bundles that it came from, by name.
        versions: Versions of the libraries that made it.
        files: SHA-256 of every other file of the bundle, by its name.
        kit: Version of kit.
        schema: Version of this JSON.
        saved: The digest of the JSON that this was read from; empty for one that was made or changed here.
    """

    kind: str
    name: str
    bases: tuple[Base, ...]
    data: tuple[Base, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    kit: str = ""
    schema: int = SCHEMA
    # init=False: `replace` does not hand it on, so a changed copy has a digest of its own.
    saved: str = field(default="", init=False, repr=False, compare=False)

    def digest(self) -> str:
        """Return the bundle's identity: a SHA-256 over everything the manifest says, its files' hashes included.

        One that was read keeps the digest that it was saved with, by whatever kit: a field that a later kit adds
        gives no older bundle another identity.
        """
        return self.saved or _digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says as JSON values, without its digest."""
        values = {name: value for name, value in asdict(self).items() if name != "saved"}
        said: dict[str, Any] = json.loads(json.dumps(values))  # as it is read back: keys are words, tuples are lists
        return said

    def attributions(self) -> tuple[str, ...]:
        """Return every line of attribution that the bundle owes, each once."""
        return tuple(dict.fromkeys(base.attribution for base in (*self.bases, *self.data) if base.attribution))

    def licences(self) -> tuple[str, ...]:
        """Return the licences of everything that it was built on, each once, sorted."""
        return tuple(sorted({base.licence for base in (*self.bases, *self.data) if base.licence}))


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Hash the files of ``folder`` and write its manifest; return it with the hashes."""
    files = {str(path.relative_to(folder).as_posix()): _sha256(path) for path in _files(folder)}
    whole = replace(manifest, files=files)
    # The manifest cannot hold the hash of its own file; its digest, over what it says, guards it instead.
    values = {**whole.to_json(), "digest": whole.digest()}
    (folder / FILE).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return whole


def read(folder: Path) -> Manifest:
    """Return the manifest of a bundle, its files unseen.

    Raises:
        BundleError: no manifest, a damaged one, or one from a newer kit.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError.of(str(folder), f"is no bundle: it has no {FILE}", "name a folder that kit saved") from None
    except (OSError, ValueError) as error:
        raise BundleError.of(str(path), f"cannot be read: {error}", "save the bundle again") from error
    if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
        raise BundleError.of(str(path), "is no bundle's manifest", "save the bundle again")
    if values["schema"] > SCHEMA:
        what = f"schema {values['schema']} is newer than this kit reads ({SCHEMA})"
        raise BundleError.of(str(path), what, "pip install -U multimodal-kit")
    digest = values.pop("digest", None)
    try:
        manifest = _from_json(values)
    except (TypeError, KeyError, AttributeError) as error:
        raise BundleError.of(
            str(path), f"does not hold what a manifest holds: {error}", "save the bundle again"
        ) from error
    # Over the JSON as it lies there, not over what this kit understands of it: other kits of the same schema write
    # fewer or more fields.
    if _digest_of(values) != digest:
        raise BundleError.of(
            str(path), "differs from what was saved", "copy the folder again, or make the bundle again"
        )
    object.__setattr__(manifest, "saved", digest)
    return manifest


def verify(folder: Path) -> Manifest:
    """Return the manifest after reading every file against its hash.

    A file that was put there later is a fault too, because loaders read by name what they find (added_tokens.json,
    a model's code). Names that begin with a dot are what systems and downloads leave (.DS_Store, .cache): no fault.

    Raises:
        BundleError: everything that differs, at once.
    """
    manifest = read(folder)
    faults = []
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            faults.append(
                Fault(f"{folder}: {name}", "is missing", "copy the whole folder again, or make the bundle again")
            )
        elif (found := _sha256(path)) != expected:
            what = f"differs from what was saved: sha256 {found[:12]}…, saved {expected[:12]}…"
            faults.append(Fault(f"{folder}: {name}", what, "copy the folder again, or make the bundle again"))
    for path in _files(folder):
        inside = path.relative_to(folder)
        if inside.as_posix() not in manifest.files and not any(part.startswith(".") for part in inside.parts):
            what = "is not part of what was saved, and could change what is loaded"
            faults.append(Fault(f"{folder}: {inside.as_posix()}", what, "move it out of the folder"))
    raise_faults(faults, BundleError)
    return manifest


def _from_json(values: Mapping[str, Any]) -> Manifest:
    known = _known(Manifest, values)
    known["bases"] = tuple(Base(**_known(Base, base)) for base in values["bases"])
    known["data"] = tuple(Base(**_known(Base, base)) for base in values.get("data", ()))
    return Manifest(**known)


def _known(kind: type[Base | Manifest], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind) if each.init}
    return {name: value for name, value in values.items() if name in names}


def _digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

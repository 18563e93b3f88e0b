"""Who was built on whom: a bundle's ancestors, found by digest, and what each step gained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kit import manifest
from kit.errors import KitError
from kit.manifest import Manifest
from kit.result import Measurement, Result
from kit.runner.differences import Difference, differences


@dataclass(frozen=True)
class Ancestor:
    """One bundle in a lineage, or the trace of one that is not here.

    Args:
        digest: The bundle's identity, hex.
        name: What people call it; a bundle that is not here has the name that its child knows it by.
        folder: Where it lies; None for one that is not here.
        kind: What kind of bundle it is; empty for one that is not here.
        parents: Digests of the bundles that it came from, by name.
        bases: Source strings of the models that it was built on.
        measurements: What was measured of it, by name.
    """

    digest: str
    name: str
    folder: Path | None = None
    kind: str = ""
    parents: Mapping[str, str] | None = None
    bases: tuple[str, ...] = ()
    measurements: Mapping[str, Measurement] | None = None


@dataclass(frozen=True)
class Lineage:
    """A bundle and everything that it came from.

    Args:
        bundles: By digest, parents before children; the bundle that was asked for is the last.
    """

    bundles: Mapping[str, Ancestor]

    def generation(self, digest: str) -> int:
        """Return how many steps a bundle is from the furthest of its ancestors; 0 for one without parents."""
        known = [parent for parent in self.parents(digest) if parent in self.bundles]
        return 1 + max(map(self.generation, known)) if known else 0

    def parents(self, digest: str) -> tuple[str, ...]:
        """Return the digests of a bundle's parents."""
        return tuple((self.bundles[digest].parents or {}).values())

    def gains(self, digest: str, parent: str) -> dict[str, Difference]:
        """Return what a step from ``parent`` changed, of all that was measured of both."""
        return differences(self.bundles[parent].measurements or {}, self.bundles[digest].measurements or {})


def lineage(bundle: Path, *, among: Iterable[Path] = ()) -> Lineage:
    """Return a bundle's lineage.

    Args:
        bundle: The bundle's folder.
        among: Folders in which to look for its ancestors, at any depth; the one that holds the bundle is one of them.

    Returns:
        The bundle with every ancestor that its manifests name. One that is nowhere in ``among`` is there by name.

    Raises:
        BundleError: the bundle has no manifest that can be read.
    """
    own = manifest.read(bundle)
    known = {found.digest(): (folder, found) for folder, found in _bundles([bundle.absolute().parent, *among])}
    known[own.digest()] = (bundle, own)
    ordered: dict[str, Ancestor] = {}
    _visit(own.digest(), own.name, known, ordered)
    return Lineage(ordered)


def _visit(digest: str, name: str, known: Mapping[str, tuple[Path, Manifest]], ordered: dict[str, Ancestor]) -> None:
    """Put a bundle behind all its ancestors. A digest covers the parents' digests, so there are no circles."""
    if digest in ordered:
        return
    if digest not in known:
        ordered[digest] = Ancestor(digest, name)
        return
    folder, found = known[digest]
    for parent, its in found.parents.items():
        _visit(its, parent, known, ordered)
    bases = tuple(base.source for base in found.bases)
    ordered[digest] = Ancestor(digest, found.name, folder, found.kind, found.parents, bases, _measured(found))


def _measured(found: Manifest) -> Mapping[str, Measurement]:
    try:
        return Result.from_json(found.results).measurements if found.results else {}
    except KitError:  # another kit's results, which this one cannot read: the bundle is still an ancestor
        return {}


def _bundles(folders: Iterable[Path]) -> Iterable[tuple[Path, Manifest]]:
    seen: set[Path] = set()
    for root in folders:
        for folder, below, files in os.walk(root):
            # Half-written runs and caches begin with a dot; a bundle holds no bundles.
            below[:] = [] if manifest.FILE in files else sorted(name for name in below if not name.startswith("."))
            path = Path(folder).resolve()
            if manifest.FILE not in files or path in seen:
                continue
            seen.add(path)
            try:
                yield Path(folder), manifest.read(path)
            except KitError:  # another program's manifest.json
                continue

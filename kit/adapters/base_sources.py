"""Where the bases of a bundle are now, and whether they are still what it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from kit.errors import BundleError, Fault, KitError, did_you_mean, listed, raise_faults
from kit.manifest import Base
from kit.parts.reference import Reference, fingerprint, parse


def sources_now(wanted: Sequence[Base], moved: Mapping[str, str]) -> list[Reference]:
    """Return where the bases are now, each being what it was.

    Args:
        wanted: The bases of a bundle's manifest.
        moved: Where some are now, by the sources that the bundle names.

    Raises:
        BundleError: what cannot be found or is another now, all at once.
    """
    known = [base.source for base in wanted]
    faults = [
        Fault(
            "bases", f"{source!r} is no base of the bundle.{did_you_mean(source, known)}", "", f"Its: {listed(known)}."
        )
        for source in moved
        if source not in known
    ]
    found: list[Reference] = []
    for base in wanted:
        try:
            reference = parse(moved.get(base.source, base.source), kind="model").absolute()
            if reference.scheme == "hf":
                reference = dataclasses.replace(reference, revision=base.digest)
            digest = fingerprint(reference).digest
        except KitError as error:
            faults += [dataclasses.replace(fault, where=f"base {base.source}: {fault.where}") for fault in error.faults]
            continue
        if digest != base.digest:
            what = f"is not what the bundle was trained on: content {digest[:12]}…, the bundle's {base.digest[:12]}…"
            faults.append(Fault(f"base {base.source}", what, "get it as it was, and say where it is with bases="))
        found.append(reference)
    raise_faults(faults, BundleError)
    return found

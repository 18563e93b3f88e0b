"""``kit merge``: several bundles of one base become one, or the reason why they cannot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kit.cli.gate import show_table

Parents = Annotated[
    list[Path],
    typer.Argument(metavar="BUNDLE...", help="Of one kind, with LoRA on one base: vision-language, reward or CLIP."),
]
How = Annotated[str, typer.Option(help="linear, svd, concat, task, ties, dare or dare-ties.")]
Weights = Annotated[
    str, typer.Option(metavar="W,W", help="One a bundle, negative to forget; a mean, or 1 each, by default.")
]
Density = Annotated[float, typer.Option(help="For ties and dare: the share of entries that stay.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Of the result; the bundles' ranks together by default.")]
Projector = Annotated[
    str, typer.Option(help="What was trained beside LoRA: shared refuses what differs; average averages it.")
]
Ask = Annotated[
    str, typer.Option("--ask", metavar="DATA", help="Ask bundles and child the test split: easy-vqa; CLIPs: openmoji.")
]
Limit = Annotated[int, typer.Option(min=2, help="With --ask: at most so many pictures.")]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the merged bundle goes.")]
Name = Annotated[str, typer.Option(help="What people call it; the bundles' names by default.")]


def merge(
    bundles: Parents,
    *,
    out: Out,
    method: How = "ties",
    weights: Weights = "",
    density: Density = 0.5,
    rank: Rank = None,
    projector: Projector = "shared",
    ask: Ask = "",
    limit: Limit = 60,
    name: Name = "",
) -> None:
    """Merge the adapters of bundles into one bundle that names them all, and say what gets lost on the way."""
    from kit.adapters.bundle import open_bundle
    from kit.adapters.merge import merge as merge_bundles
    from kit.cli.merge_asked import before_and_after

    given = _numbers(weights)
    parents = [open_bundle(bundle) for bundle in bundles]
    found = merge_bundles(
        parents, method=method, weights=given, density=density, rank=rank, projector=projector, device="cpu"
    )
    tasks = before_and_after(parents, found.model, ask, limit) if ask else {}
    show_table(("measured", "value"), [(what, str(one)) for what, one in {**found.measurements, **tasks}.items()])
    saved = found.save(out, name=name, measurements=tasks)
    print(f"{saved.folder}: of {', '.join(saved.manifest.parents)}")
    if "projectors_apart" in found.parameters:
        apart = found.parameters["projectors_apart"]
        print(f"What they trained beside LoRA differed by {apart:.2g} and was averaged: try it first.", file=sys.stderr)


def _numbers(text: str) -> list[float] | None:
    from kit.errors import BundleError

    if not text.strip():
        return None
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise BundleError.of("--weights", f"{text!r} is no list of numbers", "write 1,0.5") from error

"""``kit lineage``: who a bundle was built on, and what each step gained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def lineage(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it there, as an SVG that opens anywhere.")
    ] = None,
    among: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Where its ancestors may lie, besides the folder of runs; may be repeated."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")] = Path("runs"),
    measurement: Annotated[
        str, typer.Option(metavar="NAME", help="The measurement to compare; each bundle's first by default.")
    ] = "",
) -> None:
    """Show what a bundle was built on, back to the open models, and what each step gained."""
    from kit.runner.lineage import lineage as ancestry
    from kit.runner.lineage_figure import words, write_figure

    found = ancestry(bundle, among=[runs, *(among or ())])
    print(words(found, measurement=measurement))
    if out is not None:
        print(f"Figure: {write_figure(found, out, measurement=measurement)}")

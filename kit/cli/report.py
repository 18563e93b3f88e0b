"""``kit report``: where the newest report is, and its figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kit.errors import RunError, did_you_mean, listed


def report(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A recipe's name; any by default.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")] = Path("runs"),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write the run's figures there, as PNG files.")
    ] = None,
) -> None:
    """Print the path of the newest report."""
    from kit.runner.figures import write_figures
    from kit.runner.ledger import every_run
    from kit.runner.library import recipe_paths
    from kit.runner.run import REPORT

    found = every_run(out, name)
    if not found:
        known, recipes = sorted({folder.parent.name for folder in every_run(out)}), recipe_paths()
        where, what = (f"{out}/{name}", f"no finished run of {name}.") if name else (str(out), "no finished run.")
        hint = did_you_mean(name or "", {*known, *recipes})
        fix = f"kit run {name}" if name in recipes else "kit list shows what can be run"
        allowed = f"Runs: {listed(known)}." if known else ""
        raise RunError.of(where, what + hint, fix, allowed)
    path = found[0] / REPORT
    print(path)
    for file in write_figures(found[0], figures, name=found[0].parent.name) if figures else ():
        print(file)
    if show:
        import webbrowser

        webbrowser.open(path.as_uri())

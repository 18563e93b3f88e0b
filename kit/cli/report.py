"""``kit report``: where the newest report is, its figures as files, and several runs as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kit.errors import RunError, did_you_mean, listed


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|RUN …]", help="A recipe's name; any by default. Or several runs, or a sweep's folder."
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")] = Path("runs"),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write the run's figures there, as PNG files.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page about several runs goes; FOLDER/runs.html.")
    ] = None,
) -> None:
    """Print the path of the newest report, or write one page about several runs, figures included."""
    asked = names or []
    several = html is not None or len(asked) > 1 or any((Path(name) / "sweep.json").is_file() for name in asked)
    path = _together(asked, out, html or out / "runs.html") if several else _newest(asked[0] if asked else None, out)
    print(path)
    if figures is not None:
        from kit.runner.figures import write_figures

        if several:
            raise RunError.of("--figures", "goes with one run", "the page about several runs holds their figures")
        for file in write_figures(path.parent, figures, name=path.parent.parent.name):
            print(file)
    if show:
        import webbrowser

        webbrowser.open(path.as_uri())


def _newest(name: str | None, out: Path) -> Path:
    """Return the report of the newest run, of a recipe if it is named."""
    from kit.runner.ledger import every_run
    from kit.runner.library import recipe_paths
    from kit.runner.run import REPORT

    if found := every_run(out, name):
        return found[0] / REPORT
    known, recipes = sorted({folder.parent.name for folder in every_run(out)}), recipe_paths()
    where, what = (f"{out}/{name}", f"no finished run of {name}.") if name else (str(out), "no finished run.")
    hint = did_you_mean(name or "", {*known, *recipes})
    fix = f"kit run {name}" if name in recipes else "kit list shows what can be run"
    raise RunError.of(where, what + hint, fix, f"Runs: {listed(known)}." if known else "")


def _together(names: list[str], out: Path, html: Path) -> Path:
    """Write the page about the runs that are named; a sweep's folder names all its runs, no name all."""
    from kit.runner.history import find_run, history
    from kit.runner.runs_report import runs_of_sweep, write_runs_report

    runs = [run for name in names for run in (runs_of_sweep(Path(name)) or [find_run(name, out)])]
    return write_runs_report(runs if names else history(out), html)

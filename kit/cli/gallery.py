"""``kit gallery``: the README's pictures, made again from runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

RECIPES = ("stitch-clip", "vision-language")


def gallery(
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to.")] = Path("notebooks/gallery"),
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")] = Path("runs"),
    only: Annotated[list[str] | None, typer.Option(metavar="RECIPE", help="stitch-clip, or vision-language.")] = None,
) -> None:
    """Make the README's pictures again: figures and a report of runs, pages of bundles, and (in a clone) voting.

    Runs that are there already are used; others take some minutes.
    """
    from kit.errors import RunError, did_you_mean, listed

    for name in only or ():
        if name not in RECIPES:
            what = f"{name!r} has no picture there.{did_you_mean(name, RECIPES)}"
            raise RunError.of("--only", what, allowed=f"Allowed: {listed(RECIPES)}.")
    for name in only or RECIPES:
        for file in _of_recipe(name, to, out):
            print(file)
    if not only:
        _voting(to)


def _of_recipe(name: str, to: Path, out: Path) -> list[Path]:
    """Return the pictures of one recipe: its figures, its bundle's page, and of the first its report."""
    from kit.runner.figures import write_figures
    from kit.runner.ledger import every_run
    from kit.runner.run import REPORT
    from kit.sharing.gallery import page_pictures, report_picture

    words = [sys.executable, "-m", "kit.cli", "run", name, "--out", str(out)]
    if subprocess.run(words).returncode > 1:  # 1: a claim failed, and its pictures show that
        raise typer.Exit(2)
    run = every_run(out, name)[0]
    files = write_figures(run, to, name=name)
    bundles = sorted(manifest.parent for manifest in run.glob("*/manifest.json"))
    if bundles:
        files += page_pictures(bundles[0], to, f"demo-{name}")
    if name == RECIPES[0]:
        files.append(report_picture(run / REPORT, to))
    return files


def _voting(to: Path) -> None:
    from kit.runner.library import share

    test = share() / "tests" / "browser" / "test_pictures.py"
    if not test.is_file():
        print("The pictures of voting are made by a test, in a clone.", file=sys.stderr)
        return
    words = [sys.executable, "-m", "pytest", "-q", "-m", "soak", str(test)]
    done = subprocess.run(words, cwd=share(), env={**os.environ, "KIT_PICTURES": str(to.absolute())})
    if done.returncode:
        raise typer.Exit(1)

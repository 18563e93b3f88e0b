"""``kit copy``: a recipe and its notebook, to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kit.errors import Fault, RecipeError, RunError, did_you_mean, listed, raise_faults


def copy(
    name: Annotated[str, typer.Argument(help="A recipe's name, see kit list.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to; the current folder by default.")] = Path(),
) -> None:
    """Copy a recipe and its notebook into a folder, to change and run there."""
    from kit.runner.library import recipe_paths
    from kit.runner.recipe import read_recipe

    known = recipe_paths()
    if name not in known:
        allowed = f"Known: {listed(known) or 'none'}."
        raise RecipeError.of(name, f"no such recipe.{did_you_mean(name, known)}", "kit list shows them all", allowed)
    notebook = read_recipe(known[name]).notebook.path
    copies = {
        to / known[name].name: _repointed(known[name], notebook.name),
        to / notebook.name: notebook.read_text("utf-8"),
    }
    raise_faults(
        [
            Fault(str(path), "is there already", "move it away, or copy --to another folder")
            for path in copies
            if path.exists()
        ],
        RunError,
    )
    try:
        to.mkdir(parents=True, exist_ok=True)
        for path, text in copies.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError.of(
            str(error.filename or to), f"cannot be written: {error.strerror}", "choose another folder with --to"
        ) from error
    for path in copies:
        print(path)
    print(f"Run it: kit run {to / known[name].name}")
    print(f"Change it, cell by cell: jupyter lab {to / notebook.name}")


def _repointed(recipe: Path, notebook: str) -> str:
    """Return the recipe's text with its notebook beside it; comments and order stay."""
    text = recipe.read_text(encoding="utf-8")
    return re.sub(r"^notebook:.*$", f"notebook: {notebook}", text, count=1, flags=re.MULTILINE)

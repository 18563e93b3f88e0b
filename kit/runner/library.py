"""Where recipes are: kit's own by name, a YAML file, or any notebook."""

from __future__ import annotations

from pathlib import Path

import kit
from kit.errors import KitError, RecipeError, did_you_mean, listed
from kit.runner.recipe import Recipe, bare_recipe, read_recipe


def share() -> Path:
    """Return the folder that holds kit's ``notebooks`` and ``recipes``: in the wheel, else the clone."""
    package = Path(kit.__file__).resolve().parent
    return package / "_share" if (package / "_share").is_dir() else package.parent


def recipe_paths() -> dict[str, Path]:
    """Return the files of kit's own recipes by name, sorted by name."""
    return {path.stem: path for path in sorted((share() / "recipes").glob("*.yaml"))}


def find(target: str) -> Recipe:
    """Return the recipe that ``target`` names: a name, a path to a YAML file, or a path to a notebook.

    Raises:
        RecipeError: no such thing, or a recipe that is not as it must be.
    """
    path = Path(target).expanduser()
    if path.suffix == ".ipynb":
        if not path.is_file():
            raise RecipeError.of(target, f"no such notebook.{_near_file(path, '*.ipynb')}", "check the path")
        return bare_recipe(path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError.of(target, f"no such recipe.{_near_file(path, '*.y*ml')}", "check the path")
        return read_recipe(path)
    known = recipe_paths()
    if target in known:
        return read_recipe(_from_here(known[target]))
    raise RecipeError.of(
        target, f"no such recipe.{did_you_mean(target, known)}",
        "name one of these, or give the path of a .yaml or .ipynb file", f"Known: {listed(known) or 'none'}.",
    )  # fmt: skip


def _from_here(path: Path) -> Path:
    """Return the path relative to the working directory where it lies below it: shorter in messages."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _near_file(path: Path, pattern: str) -> str:
    folder = path.parent
    names = [file.name for file in folder.glob(pattern)] if folder.is_dir() else []
    return did_you_mean(path.name, names)


def every_recipe() -> tuple[dict[str, Recipe], dict[str, KitError]]:
    """Return kit's own recipes by name, and the errors of those that cannot be read."""
    good: dict[str, Recipe] = {}
    bad: dict[str, KitError] = {}
    for name, path in recipe_paths().items():
        try:
            good[name] = read_recipe(_from_here(path))
        except KitError as error:
            bad[name] = error
    return good, bad

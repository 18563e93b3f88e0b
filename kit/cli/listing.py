"""``kit list``: kit's own recipes."""

from __future__ import annotations

import sys

import typer


def show_list() -> None:
    """Show the recipes that come with kit: what each does, its sizes, and the machine it fits."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kit.runner.library import every_recipe

    good, bad = every_recipe()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("recipe", "about", "sizes", "fits"):
        table.add_column(column, overflow="fold")
    for name, recipe in good.items():
        # As Text: an "[a-z]" in a recipe is no markup.
        table.add_row(*map(Text, (name, recipe.about, ", ".join(recipe.sizes), recipe.tier)))
    if good:
        console.print(table)
    for error in bad.values():
        print(error, file=sys.stderr)
    if not good and not bad:
        print("No recipes came with this kit; kit run takes any notebook's path.")
    if bad:
        raise typer.Exit(2)

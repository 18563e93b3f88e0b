"""``kit parts``: the open models and data that kit pulls by name."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kit.errors import Fault, PartError, raise_faults

app = typer.Typer(help="Open models and data by name: list, pull, verify.", no_args_is_help=True)


@app.command("list")
def show_list() -> None:
    """Show every part: licence, size, whether it is here, and what it is."""
    from rich.console import Console
    from rich.table import Table

    from kit.parts.pull import kit_home, states

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("part", "kind", "version", "licence", "size", "here", "about"):
        table.add_column(column, overflow="fold")
    for state in states():
        part = state.part
        table.add_row(
            part.name, part.kind, part.version, part.licence, part.size, "yes" if state.here else "no", part.about
        )
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    console.print(f"Cache: {kit_home()}", soft_wrap=True, markup=False)


@app.command("pull")
def pull_parts(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Parts to pull.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Pull all of them.")] = False,
) -> None:
    """Pull parts into the cache; those that are here and sound stay as they are."""
    from kit.parts.pull import pull

    for name in _chosen(names, every=every):
        path = pull(name)
        print(f"{name}: {path}")


@app.command("verify")
def verify_parts(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Parts; all that are here by default.")
    ] = None,
) -> None:
    """Read every file of the parts in the cache, and say what is not as its wheel had it."""
    from kit.parts.pull import states, verify

    chosen = _chosen(names, every=False) if names else [state.part.name for state in states() if state.path.exists()]
    faults: list[Fault] = []
    for name in chosen:
        found = verify(name)
        faults += found
        print(f"{name}: {'damaged' if found else 'sound'}")
    if not chosen:
        print("No part is here; kit parts pull NAME brings one.")
    raise_faults(faults, PartError)


def _chosen(names: list[str] | None, *, every: bool) -> list[str]:
    from kit.parts.catalog import PARTS, find

    if every:
        return list(PARTS)
    if not names:
        raise PartError.of(
            "kit parts pull", "no part was named", "name some, or give --all", f"Parts: {', '.join(PARTS)}."
        )
    faults: list[Fault] = []
    for name in names:
        try:
            find(name)
        except PartError as error:
            faults += error.faults
    raise_faults(faults, PartError)
    return names

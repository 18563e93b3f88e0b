"""The typer application: the groups of commands put together, and ``--version``."""

from __future__ import annotations

from typing import Annotated

import typer

from kit.cli import run

app = typer.Typer(
    name="kit",
    help="A workbench for multimodal experiments: notebooks as checked, reproducible runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        typer.echo(f"kit {importlib.metadata.version('multimodal-kit')}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A workbench for multimodal experiments: notebooks as checked, reproducible runs."""


app.command("run")(run.run)

"""The typer application: the groups of commands put together, and how their failures end."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kit.cli import (
    copying,
    demo,
    doctor,
    export,
    gallery,
    history,
    lab,
    lineage,
    listing,
    merge,
    parts,
    plan,
    push,
    quantize,
    report,
    run,
    space,
    study,
    sweep,
)
from kit.errors import KitError


class KitGroup(TyperGroup):
    """Turns kit's own errors into their text and exit code 2, and ^C into one line and 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KitError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print("Interrupted; nothing half-done was left behind.", file=sys.stderr)
            raise typer.Exit(130) from error


app = typer.Typer(
    name="kit",
    cls=KitGroup,
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


app.command("list")(listing.show_list)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.command("copy")(copying.copy)
app.command("lab")(lab.lab)
app.command("doctor")(doctor.doctor)
app.command("quantize")(quantize.quantize)
app.command("merge")(merge.merge)
app.command("export")(export.export)
app.command("demo")(demo.demo)
app.command("sweep")(sweep.sweep)
app.command("history")(history.show_history)
app.command("compare")(history.compare)
app.command("lineage")(lineage.lineage)
app.command("push")(push.push)
app.command("gallery")(gallery.gallery)
app.add_typer(parts.app, name="parts")
app.add_typer(study.app, name="study")
app.add_typer(space.app, name="space")

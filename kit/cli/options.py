"""Arguments that several commands take, in the same words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A recipe's name, a .yaml recipe, or an .ipynb notebook.")
]
Size = Annotated[str, typer.Option(help="Which of the recipe's sizes: smoke, laptop, gpu, …")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A notebook parameter; may be repeated."),
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")]
Curves = Annotated[
    bool, typer.Option("--curves", help="Also write training curves for `trackio show` (extra: curves).")
]


def draw_curves(wanted: bool, project: str) -> None:
    """Let this command's runs write their curves into a project of trackio's; see ``kit.training.curves``."""
    if wanted:
        os.environ["KIT_CURVES"] = project

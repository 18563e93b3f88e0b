"""``kit report``: where the newest report is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kit.errors import RunError, did_you_mean, listed


def report(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A recipe's name; any by default.")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")] = Path("runs"),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Print the path of the newest report."""
    from kit.runner.ledger import every_run
    from kit.runner.run import REPORT

    found = every_run(out, name)
    if not found:
        known = sorted({folder.parent.name for folder in every_run(out)})
        where, what = (f"{out}/{name}", f"no finished run of {name}.") if name else (str(out), "no finished run.")
        hint = did_you_mean(name or "", known)
        allowed = f"Runs: {listed(known)}." if known else ""
        raise RunError.of(where, what + hint, f"kit run {name or 'NAME'}", allowed)
    path = found[0] / REPORT
    print(path)
    if show:
        import webbrowser

        webbrowser.open(path.as_uri())

"""``kit push``: a bundle to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository.")],
    *,
    private: Annotated[bool, typer.Option("--private", help="Make a new one private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and upload nothing.")] = False,
) -> None:
    """Upload a bundle with a card that the Hub understands, with the token of ``hf auth login``.

    Whoever has kit opens it as hf-bundle:ORG/NAME.
    """
    from kit.cli.space import show_files
    from kit.sharing.hub_bundle import push_bundle

    show_files(push_bundle(bundle, name, private=private, dry_run=dry_run), dry_run=dry_run)
    if not dry_run:
        print(f"https://huggingface.co/{name}")

"""``kit space``: a bundle's page as a folder for Hugging Face Spaces: build, check, push."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="A bundle's page as a folder that Hugging Face Spaces runs: build, check, push.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A Space's folder.")]


@app.command("build")
def build_command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to.")],
    hardware: Annotated[str, typer.Option(help="cpu, or zero-gpu.")] = "cpu",
    title: Annotated[str, typer.Option(help=r"What it is called. \[default: the bundle's name]")] = "",
    pictures: Annotated[
        str, typer.Option(metavar="SOURCE", help=r"What a CLIP finds. \[default: the data that it was trained on]")
    ] = "",
    static: Annotated[
        bool, typer.Option("--static", help="Of a CLIP: runs in the visitor's browser, and needs no server.")
    ] = False,
) -> None:
    """Write a folder with everything that the page needs: bundle, parts, pictures, kit, pinned requirements."""
    from kit.quantization.sizes import disk_bytes

    if static:
        from kit.sharing.static_space import build_static

        folder = build_static(bundle, out, title=title, pictures=pictures)
    else:
        from kit.sharing.space import build_space

        folder = build_space(bundle, out, hardware=hardware, title=title, pictures=pictures)
    print(f"{folder}: {disk_bytes(folder) / 1e6:.1f} MB")


@app.command("check")
def check_command(
    folder: Folder,
    *,
    here: Annotated[
        bool, typer.Option("--here", help="On what is installed here, instead of in a new virtual environment.")
    ] = False,
    screenshot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to put a picture of the page (PNG).")
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="Of a static one: how many are asked.")] = 20,
) -> None:
    """Install its requirements into a new virtual environment, run it, call every endpoint, take a picture.

    A static one is opened in a headless browser, asked without a network, and held to what Python finds.
    """
    from kit.sharing.space_check import check_space
    from kit.sharing.space_files import is_static

    if is_static(folder):
        _check_static(folder, questions, screenshot)
        return
    found = check_space(folder, fresh=not here, screenshot=screenshot)
    print(f"answers after {found.start_s:.1f} s")
    for name, answer in found.endpoints.items():
        print(f"{name}: {answer}")
    if found.screenshot is not None:
        print(found.screenshot)


def _check_static(folder: Path, questions: int, screenshot: Path | None) -> None:
    from kit.sharing.static_check import check_static

    found = check_static(folder, questions=questions, screenshot=screenshot)
    print(f"{found.mb:.1f} MB, ready after {found.load_s:.1f} s, first answer after {found.first_s:.2f} s")
    print(f"{found.asked - len(found.differ)} of {found.asked} questions find the same five pictures as in Python")
    if found.screenshot is not None:
        print(found.screenshot)
    faults = found.faults()
    for fault in faults:
        print(f"Failed: {fault}", file=sys.stderr)
    if faults:
        raise typer.Exit(1)


@app.command("push")
def push_command(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The Space.")],
    *,
    private: Annotated[bool, typer.Option("--private", help="Make a new one private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and upload nothing.")] = False,
) -> None:
    """Upload a Space's folder, with the token of ``hf auth login``."""
    from kit.sharing.space_check import push_space

    show_files(push_space(folder, name, private=private, dry_run=dry_run), dry_run=dry_run)
    if not dry_run:
        print(f"https://huggingface.co/spaces/{name}")


def show_files(files: Sequence[tuple[str, int]], *, dry_run: bool) -> None:
    """Print what was uploaded, or would be: names and sizes; of many files in a folder their number."""
    grouped: dict[str, list[int]] = {}
    for name, size in files:
        folder, _, rest = name.partition("/")
        grouped.setdefault(f"{folder}/" if rest else name, []).append(size)
    for name, sizes in grouped.items():
        many = f" ({len(sizes)} files)" if name.endswith("/") else ""
        print(f"{sum(sizes) / 1e6:10.2f} MB  {name}{many}")
    total = sum(size for _, size in files)
    print(f"{total / 1e6:10.2f} MB  {'would be' if dry_run else 'were'} uploaded")

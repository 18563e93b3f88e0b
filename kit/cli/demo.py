"""``kit demo``: a page on which others try a bundle."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def demo(
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE [BUNDLE]", help="Folders of bundles of one kind, or hf-bundle:ORG/NAME."),
    ],
    *,
    pictures: Annotated[
        str,
        typer.Option(metavar="SOURCE", help=r"What a CLIP finds. \[default: the data that it was trained on]"),
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")] = 7871,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets the whole network in.")] = "127.0.0.1",
    runtime: Annotated[
        str, typer.Option(help="What runs the models: torch, or onnx for 8 bits by onnxruntime, often quicker.")
    ] = "torch",
    votes: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="Let visitors vote on two, names hidden, and keep the votes here, or in a database."
        ),
    ] = "",
    keep_pictures: Annotated[
        bool, typer.Option("--keep-pictures", help="Keep the pictures that are voted on too; the page says so.")
    ] = False,
    share: Annotated[
        bool, typer.Option("--share", help="Let everybody with the link in, through Gradio's tunnel.")
    ] = False,
) -> None:
    """Serve a page on which others try a bundle; two bundles are shown side by side. ^C ends it.

    A CLIP finds pictures by words and labels pictures; a vision-language model answers questions about pictures.
    Nothing that visitors send is kept, unless --votes says where: kit study rank --db FOLDER ranks two bundles by it,
    or one with its adapter on and off.
    """
    from kit.sharing.demo import demo as serve

    served = serve(
        *bundles, pictures=pictures, host=host, port=port, share=share, runtime=runtime, votes=votes,
        keep_pictures=keep_pictures,
    )  # fmt: skip
    try:
        print(served, flush=True)
        if votes:
            from kit.humaneval.schema import hidden

            print(f"Who is better so far: kit study rank --db {hidden(votes)}", file=sys.stderr)
        print("^C ends it.", file=sys.stderr, flush=True)
        served.wait()
    except KeyboardInterrupt:
        print("Closed.", file=sys.stderr)
    finally:
        served.close()

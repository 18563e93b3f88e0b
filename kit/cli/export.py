"""``kit export``: a bundle for another library, kept where that library's own run of it is still the same model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kit.cli.gate import show_gate


def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A vision-language bundle's folder.")],
    *,
    to: Annotated[str, typer.Option("--format", help="onnx (onnxruntime, int8) or safetensors (merged, bfloat16).")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to; BUNDLE-FORMAT by default.")] = None,
    bits: Annotated[int, typer.Option(min=4, max=8, help="For onnx: 8, or 4 for half of the matrices.")] = 8,
) -> None:
    """Merge a bundle into its float base, write it for another library, open it there and compare.

    What fails the comparison is not kept: exit code 1.
    """
    from kit.adapters.bundle import open_bundle
    from kit.errors import BundleError, did_you_mean, listed
    from kit.quantization.export import FORMATS
    from kit.quantization.export import export as write
    from kit.quantization.sizes import disk_bytes

    if to not in FORMATS:
        what = f"{to!r} is unknown.{did_you_mean(to, FORMATS)}"
        raise BundleError.of("--format", what, allowed=f"Allowed: {listed(FORMATS)}.")
    if bits not in {4, 8} or (bits == 4 and to != "onnx"):
        raise BundleError.of("--bits", f"{bits} is no choice for {to}", "give 8, or for onnx 4")
    target = out or bundle.with_name(f"{bundle.resolve().name}-{to}")
    found = write(open_bundle(bundle), to, target, **({"bits": bits} if to == "onnx" else {}))
    show_gate(found.gate, found.tolerance)
    if found.folder is None:
        print("Nothing was kept.", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{found.folder}: {disk_bytes(found.folder) / 1e6:.1f} MB")

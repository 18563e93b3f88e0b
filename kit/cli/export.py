"""``kit export``: a bundle for another library, kept where that library's own run of it is still the same model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kit.cli.gate import show_gate


def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            "--format", help="onnx (onnxruntime), gguf (llama.cpp, text alone) or safetensors (merged, bfloat16)."
        ),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to; BUNDLE-FORMAT by default.")] = None,
    data: Annotated[
        str, typer.Option(metavar="SOURCE", help="Of a CLIP: rows to calibrate and compare on; its own by default.")
    ] = "",
    bits: Annotated[int, typer.Option(min=4, max=8, help="8 or 4; for onnx, 4 is half of the matrices.")] = 8,
) -> None:
    """Merge a bundle into its float base, write it for another library, open it there and compare.

    What fails the comparison is not kept: exit code 1.
    """
    from kit.adapters.bundle import open_bundle
    from kit.errors import BundleError, did_you_mean, listed
    from kit.quantization.export import FORMATS
    from kit.quantization.export import export as write
    from kit.quantization.sizes import disk_bytes

    if to == "openvino":
        what = "is not written: with the same numbers it writes at half of onnxruntime's rate here"
        raise BundleError.of("--format openvino", what, "give onnx; kit run bench-quantization measures both anew")
    if to not in FORMATS:
        what = f"{to!r} is unknown.{did_you_mean(to, FORMATS)}"
        raise BundleError.of("--format", what, allowed=f"Allowed: {listed(FORMATS)}.")
    if bits not in {4, 8} or (bits == 4 and to == "safetensors"):
        raise BundleError.of("--bits", f"{bits} is no choice for {to}", "give 8, or for onnx and gguf 4")
    target = out or bundle.with_name(f"{bundle.resolve().name}-{to}")
    opened = open_bundle(bundle)
    if opened.manifest.kind == "dual-encoder" and to == "onnx":
        _towers(opened, target, data)
        return
    found = write(opened, to, target, **({} if to == "safetensors" else {"bits": bits}))
    show_gate(found.gate, found.tolerance)
    if found.folder is None:
        print("Nothing was kept.", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{found.folder}: {disk_bytes(found.folder) / 1e6:.1f} MB")


def _towers(bundle: Any, target: Path, data: str) -> None:
    from kit.quantization.export import export_pairs
    from kit.quantization.sizes import disk_bytes

    folder, found = export_pairs(bundle, target, data)
    lost = "" if found.points is None else f", {found.points:.2f} points of recall@1 lost"
    print(f"mean cosine of pictures {found.image:.4f}, of texts {found.text:.4f}{lost}")
    if folder is None:
        print(*found.faults(), "Nothing was kept.", sep="\n", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{folder}: {disk_bytes(folder) / 1e6:.1f} MB")

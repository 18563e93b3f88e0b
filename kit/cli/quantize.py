"""``kit quantize``: a smaller copy of a bundle, or the reason why there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kit.cli.gate import show_gate, show_table

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A vision-language bundle's folder.")]
To = Annotated[str, typer.Option(help="What the language tower's matrices become: int8, int4, nf4, bfloat16.")]
Library = Annotated[str, typer.Option(help="Who does it: bitsandbytes or torchao; any by default.")]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the copy goes; BUNDLE-TYPE by default.")]
Budget = Annotated[
    float | None,
    typer.Option("--max-mb", metavar="N", help="Refuse a language tower of more megabytes, and say what would fit."),
]
Floats = Annotated[
    str, typer.Option(help="The type of all that is not quantised; bfloat16 where the processor multiplies it.")
]


def quantize(
    bundle: Bundle, *, to: To, backend: Library = "", out: Out = None, max_mb: Budget = None, floats: Floats = ""
) -> None:
    """Merge a bundle's adapter into its float base, quantise that, and keep it if it is still the same model.

    The copy is compared with the bundle on fixed probes. One that fails is not written: exit code 1, where it broke.
    """
    from kit.adapters.bundle import open_bundle
    from kit.quantization.copies import merged, quantised, save_copy, usual_floats
    from kit.quantization.sizes import check_budget, choices, choose, disk_bytes

    parent = open_bundle(bundle)  # before a package that may be missing, or loads for seconds
    wanted = choose(to, backend)
    model = merged(parent)
    if max_mb is not None:
        check_budget(choices(model.language, floats or usual_floats()), wanted, max_mb)
    copy = quantised(model, wanted.name, dtype=floats)
    rows = [(one.module, str(one.count), f"{one.parameters:,}", one.to, one.why) for one in copy.covered]
    show_table(("module", "count", "weights", "held as", "why not"), rows)
    if not _same(model, copy.model, wanted.to):
        raise typer.Exit(1)
    saved = save_copy(out or bundle.with_name(f"{bundle.resolve().name}-{wanted.to}"), copy, parent)
    print(f"{saved.folder}: {disk_bytes(saved.folder) / 1e6:.1f} MB, {copy.wall_s:.1f} s")
    _warn(copy, wanted)


def _same(model: Any, copy: Any, to: str) -> bool:
    """Show the gate; return whether the copy passes it."""
    from kit.quantization.parity import TOLERANCES, logits_of, parity, where_it_broke
    from kit.quantization.probes import fixed_probes

    probes, tolerance = fixed_probes(), TOLERANCES[to]
    gate = parity(logits_of(model), logits_of(copy), probes)
    good = show_gate(gate, tolerance)
    if not good:
        print(f"It broke in {where_it_broke(model, copy, probes[gate.worst_probe])}", file=sys.stderr)
        print("Nothing was written.", file=sys.stderr)
    return good


def _warn(copy: Any, wanted: Any) -> None:
    from kit.models.backends import slowness
    from kit.quantization.sizes import SMALL

    if wanted.to in {"int4", "nf4"} and sum(one.parameters for one in copy.covered) < SMALL:
        print("Below 2 billion parameters 4 bits cost much: prefer int8 unless memory forces you.", file=sys.stderr)
    speed = slowness(copy.model.language)
    if speed < 1:
        advice = "compile it, or take it" if wanted.runs == "compiled" else "take it"
        what = f"One token passes its widest layer at {speed:.2f} times float speed here"
        print(f"{what}: {advice} for its memory, not for speed.", file=sys.stderr)

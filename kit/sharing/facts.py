"""What a demo says about itself: data, licences, attribution, results with intervals, limits, and how to remake it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

from kit.adapters.bundle import Bundle
from kit.manifest import Base, Manifest
from kit.result import Measurement, Result

RUN = "run.json"
LIMITS = {
    "dual-encoder": (
        "Words that it never met in training find something too: there is always a nearest picture.",
        "A score is the cosine of two vectors: it orders pictures for one question, and compares no two questions.",
        "The shares of labels add up to 1 whatever the labels are: with no right one among them, a wrong one wins.",
    ),
    "vision-language": (
        "It answers every question, also one that the picture cannot answer, and does not say how sure it is.",
        "Outside of what it was trained on its answers are guesses in fluent words.",
        "What was measured is on held-out data of the same kind as the training data, not on pictures of yours.",
    ),
}


def facts(bundle: Bundle, *, command: str = "") -> str:
    """Return what is to be known about a bundle, as Markdown.

    Args:
        bundle: The bundle.
        command: The command that makes it again; found beside a bundle that lies in a run's folder.
    """
    manifest = bundle.manifest
    command = command or remaking(bundle.folder)
    sections = [
        f"## {html.escape(manifest.name)}",
        f"A {manifest.kind.replace('language', 'language model')}, bundle `{manifest.digest()[:16]}`.",
        "### What it was trained on",
        _bullets(f"{_base(one)}: {one.rows or '?'} rows of the split “{one.split}”" for one in manifest.data),
        "### What it was built on",
        _bullets(map(_base, manifest.bases)),
        "### What it reached",
        _results(manifest),
        "### Limits",
        _bullets(LIMITS.get(manifest.kind, ())),
        "### Attribution",
        _bullets(manifest.attributions()),
        "### How to make it again",
        f"```sh\n{command}\n```" if command else "It was not made by a run of kit, or lies outside its folder.",
    ]
    if manifest.parents:
        parents = (f"{name}: `{one[:16]}`" for name, one in manifest.parents.items())
        sections += ["### What it came from", _bullets(parents)]
    return "\n\n".join(sections) + "\n"


def remaking(folder: Path) -> str:
    """Return the command of the run that a bundle lies in, or an empty string."""
    for above in list(folder.resolve().parents)[:3]:
        try:
            return str(json.loads((above / RUN).read_text(encoding="utf-8"))["command"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "Nothing."


def _base(base: Base) -> str:
    # By the last part of a path: where things lie on the owner's machine is nobody's business.
    scheme, _, body = base.source.partition(":")
    source = f"{scheme}:…/{Path(body).name}" if Path(body).is_absolute() else base.source
    return f"`{source}`, {base.licence or 'licence not stated'}"


def _results(manifest: Manifest) -> str:
    if not manifest.results:
        return "Nothing was measured."
    measured = Result.from_json(manifest.results).measurements
    head = ["| what | value | interval | n | baseline | split |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(name, one) for name, one in measured.items())])


def _row(name: str, one: Measurement) -> str:
    interval = "" if one.low is None or one.high is None else f"{one.low:.3g} – {one.high:.3g}"
    baseline = "" if one.baseline is None else f"{one.baseline:.3g}"
    words = name.replace("_", " ")
    return f"| {words} | {one.value:.3g} {one.unit} | {interval} | {one.n} | {baseline} | {one.split} |"

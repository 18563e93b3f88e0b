"""The report of a run: one HTML file that opens offline and asks no network for anything."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kit.result import MIME, Measurement, Result
from kit.runner.claims import Verdict

HERE = Path(__file__).parent
# A widget lives in its kernel; the plain text beside it is how it looked at first (a bar at 0%), so neither is shown.
_WIDGET = "application/vnd.jupyter.widget-view+json"
# A picture on the web would be a hole in an offline page; its description stays, for badges with their link.
_REMOTE_PICTURE = re.compile(r"""<img\b[^>]*?\bsrc\s*=\s*["']?(?:https?:)?//[^>]*>""", re.IGNORECASE)
_ALT = re.compile(r"""\balt\s*=\s*"([^"]*)\"""", re.IGNORECASE)


def render(executed: Path, record: Mapping[str, Any], result: Result | None) -> str:
    """Return the report as the text of one HTML file.

    Args:
        executed: The executed notebook.
        record: The run's ``run.json``.
        result: Its Result; None when it has none.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((HERE / "report.html.j2").read_text(encoding="utf-8"))
    said = {claim["claim"].split(" ")[0] for claim in record["claims"]}
    rows = [
        {**_row(name, found), "claimed": name in said}
        for name, found in (result.measurements if result else {}).items()
    ]
    return template.render(
        record=record,
        css=Markup(report_css()),  # noqa: S704 - our own file
        cells=Markup(_cells(executed)),  # noqa: S704 - the notebook's own output, under a policy without network
        verdict=_verdict(record["claims"]),
        claims=[_claim(claim) for claim in record["claims"]],
        cards=_cards(record),
        predicted=_predicted(record),
        rows=rows,
        baselines=any(row["plot"] and row["plot"]["baseline"] is not None for row in rows),
        notes=result.notes if result else (),
        started=_when(record["started"]),
    )


def report_css() -> str:
    """Return the stylesheet of every report, with the colours of code."""
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    own = (HERE / "report.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


def _cells(executed: Path) -> str:
    """Return the notebook's cells as HTML, with every picture inside."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.reads(executed.read_text(encoding="utf-8"), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                output.get("data", {}).pop(MIME, None)  # the table above shows it
    exporter = HTMLExporter(raw_template=(HERE / "cells.html.j2").read_text(encoding="utf-8"), embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(executed.parent)}})
    return _REMOTE_PICTURE.sub(_described, str(body))


def _described(picture: re.Match[str]) -> str:
    words = _ALT.search(picture[0])
    # nbconvert writes "No description has been provided for this image" where there is none.
    given = words and not words[1].startswith("No description")
    return f'<span class="quiet">{words[1] if words and given else "(a picture on the web)"}</span>'


def _verdict(claims: list[dict[str, Any]]) -> dict[str, str]:
    checked = [claim for claim in claims if claim["kind"] == "claim"]
    failed = sum(not claim["passed"] for claim in checked)
    if worse := sum(claim["kind"] == "regression" for claim in claims):
        words = f"Worse than the last good run in {worse} measurement{'s' if worse > 1 else ''}"
        more = f"; {failed} of {len(checked)} claims failed" if failed else ""
        return {"kind": "fail", "sign": "✗", "words": words + more}
    if not checked:
        return {"kind": "none", "sign": "–", "words": "Finished; nothing was claimed"}
    if failed:
        return {"kind": "fail", "sign": "✗", "words": f"{failed} of {len(checked)} claims failed"}
    words = "The claim holds" if len(checked) == 1 else f"All {len(checked)} claims hold"
    return {"kind": "pass", "sign": "✓", "words": words}


def _claim(claim: dict[str, Any]) -> dict[str, str]:
    verdict = Verdict(**claim)
    signs = {"PASS": "pass ✓", "within budget": "pass ✓", "FAIL": "fail ✗", "WORSE": "fail ✗", "over budget": "warn !"}
    kind, sign = signs.get(verdict.label, "none –").split()
    return {**asdict(verdict), "label": verdict.label, "kind": kind, "sign": sign}


def _cards(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    over = {
        claim["claim"].split(" ")[0] for claim in record["claims"] if claim["kind"] == "budget" and not claim["passed"]
    }
    machine = record["machine"]
    cards = [
        {"figure": f"{record['wall_s']:.1f}", "unit": "s", "label": "wall time", "over": "wall_s" in over},
        {
            "figure": f"{record['peak_rss_gib']:.2f}",
            "unit": "GiB",
            "label": "peak memory",
            "over": "peak_rss_gib" in over,
        },
        {
            "figure": machine["device"],
            "unit": "",
            "label": f"{machine['cores']} cores, {machine['memory_gib']} GiB",
            "over": False,
        },
    ]
    if record["price_per_hour"] is not None:
        price = record["wall_s"] / 3600 * record["price_per_hour"]
        label = f"money, at {record['price_per_hour']:g} an hour"
        cards.insert(2, {"figure": f"{price:.4f}", "unit": "", "label": label, "over": False})
    return cards


def _predicted(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the plan's figures beside what was measured; empty for a run without a plan."""
    plan = record.get("predicted")
    if not plan:
        return []
    price = plan["price_per_hour"] if record["price_per_hour"] is None else record["price_per_hour"]
    pairs = [
        ("wall time", "s", plan["wall_s"], record["wall_s"]),
        ("peak memory", "GiB", plan["peak_rss_gib"], record["peak_rss_gib"]),
    ]
    if price is not None:
        pairs.append(("money", "", plan["wall_s"] / 3600 * price, record["wall_s"] / 3600 * price))
    return [
        {
            "what": what, "predicted": f"{guess:.3g} {unit}", "measured": f"{found:.3g} {unit}",
            "off": f"{(guess / found - 1):+.0%}" if found else "",
        }
        for what, unit, guess, found in pairs
    ]  # fmt: skip


def _row(name: str, found: Measurement) -> dict[str, Any]:
    covers = "least to most" if found.level is None else f"{found.level:.0%}"
    words = "" if found.low is None else f"{found.low:.4g} to {found.high:.4g}, {covers}"
    if found.baseline is not None:
        words += f"{'; ' if words else ''}baseline {found.baseline:.4g}"
    return {
        "name": name, "value": f"{found.value:.4g}", "unit": found.unit, "n": f"{found.n:,}", "split": found.split,
        "method": found.method, "words": words, "plot": _plot(found),
    }  # fmt: skip


def _plot(found: Measurement) -> dict[str, float | None] | None:
    """Return where interval, value and baseline lie on a line of 192 units; it starts at 0 so that lengths compare."""
    if found.low is None or found.high is None:
        return None
    marks = [found.value, found.low, found.high, found.baseline or 0.0, 0.0]
    least, most = min(marks), max(marks)
    width = (most - least) * 1.08 or 1.0

    def place(value: float) -> float:
        return round(4 + 192 * (value - least) / width, 1)

    return {
        "low": place(found.low), "high": place(found.high), "value": place(found.value),
        "baseline": None if found.baseline is None else place(found.baseline),
    }  # fmt: skip


def _when(started: str) -> str:
    return dt.datetime.fromisoformat(started).strftime("%d %B %Y, %H:%M UTC").lstrip("0")

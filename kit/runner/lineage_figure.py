"""A lineage as a figure: an SVG that reads in print, without colours, and by a screen reader."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from kit.runner.ledger import write_text
from kit.runner.lineage import Ancestor, Lineage

WIDTH, GAP, LINE, MARGIN = 270, 70, 17, 14
LETTERS = 40  # of 12 px that fit into a box
# Okabe and Ito's colours, told apart by every kind of colour vision; the words say the same.
_SIGNS = {"better": ("▲", "#00664b"), "worse": ("▼", "#a63603"), "changed": ("◆", "#444"), "same": ("=", "#444")}
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1b1b1b}.name{font-weight:700;font-size:13px}.quiet{fill:#555}"
    ".box{fill:#fff;stroke:#333}.away{fill:#fff;stroke:#777;stroke-dasharray:5 4}.base{fill:#eef3f8;stroke:#567}"
    ".edge{fill:none;stroke:#555;stroke-width:1.5}"
)
Line = tuple[str, str, str]  # class, colour, text


def figure(lineage: Lineage, *, measurement: str = "") -> str:
    """Return the SVG of a lineage, from the models on the left to the bundle on the right.

    Args:
        lineage: The bundle and its ancestors.
        measurement: Which measurement to show of each, with what each step gained; the first of each by default.
    """
    boxes = _boxes(lineage, measurement)
    columns: dict[int, list[str]] = {}
    for name, (column, _, _) in boxes.items():
        columns.setdefault(column, []).append(name)
    heights = {name: LINE * len(lines) + 2 * MARGIN for name, (_, _, lines) in boxes.items()}
    tall = max(sum(heights[name] + MARGIN for name in names) for names in columns.values()) + MARGIN
    places = {}
    for column, names in columns.items():
        top = (tall - sum(heights[name] + MARGIN for name in names) + MARGIN) / 2
        for name in names:
            places[name] = (MARGIN + column * (WIDTH + GAP), round(top, 1))
            top += heights[name] + MARGIN
    drawn = [_edge(places, heights, source, target) for source, target in _edges(lineage)]
    drawn += [_box(places[name], heights[name], kind, lines) for name, (_, kind, lines) in boxes.items()]
    wide = max(columns) * (WIDTH + GAP) + WIDTH + 2 * MARGIN
    return _svg(lineage, round(wide), round(tall), drawn)


def write_figure(lineage: Lineage, path: Path, *, measurement: str = "") -> Path:
    """Write the SVG of a lineage whole or not at all, and return its path.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(path, figure(lineage, measurement=measurement))
    return path


def words(lineage: Lineage, *, measurement: str = "") -> str:
    """Return the same as text: a line for each bundle, and one for each step into it."""
    said = []
    for digest, bundle in lineage.bundles.items():
        said.append(f"{bundle.name} ({digest[:12]}){'' if bundle.folder else ', which is not here'}")
        said += [f"  on {base}" for base in _models(bundle)]
        said += [f"  {text}" for _, _, text in _said(lineage, digest, measurement)]
    return "\n".join(said)


def _boxes(lineage: Lineage, measurement: str) -> dict[str, tuple[int, str, list[Line]]]:
    """Return column, class and lines of every box by its name; the models of bundles without parents come first."""
    boxes: dict[str, tuple[int, str, list[Line]]] = {}
    for bundle in lineage.bundles.values():
        for base in _models(bundle):
            boxes[f"base {base}"] = (0, "base", [("name", "", _short(base)), ("quiet", "", "model")])
    first = int(bool(boxes))
    for digest, bundle in lineage.bundles.items():
        known = f"{bundle.kind}, {digest[:12]}" if bundle.folder else f"not here, {digest[:12]}"
        lines: list[Line] = [("name", "", _short(bundle.name)), ("quiet", "", known)]
        lines += [(kind, colour, _short(text)) for kind, colour, text in _said(lineage, digest, measurement)]
        boxes[digest] = (lineage.generation(digest) + first, "box" if bundle.folder else "away", lines)
    return boxes


def _said(lineage: Lineage, digest: str, measurement: str) -> list[Line]:
    """Return what was measured of a bundle, and what each step into it gained."""
    bundle = lineage.bundles[digest]
    name = _shown(bundle, measurement)
    lines: list[Line] = []
    if name:
        found = (bundle.measurements or {})[name]
        interval = "" if found.low is None else f" [{found.low:.3g}, {found.high:.3g}]"
        lines.append(("", "", f"{name} {found.value:.3g}{interval}"))
    for parent in lineage.parents(digest):
        gains = lineage.gains(digest, parent)
        if not gains:
            continue
        gained = gains.get(measurement or name) or next(iter(gains.values()))
        sign, colour = _SIGNS[gained.direction]
        interval = "" if gained.low is None else f" [{gained.low:+.3g}, {gained.high:+.3g}]"
        of = "" if gained.name == name else f" {gained.name}"
        lines.append(("", colour, f"{sign} {gained.direction}{of} {gained.value:+.3g}{interval}"))
        if len(lineage.parents(digest)) > 1:
            lines.append(("quiet", "", f"  against {lineage.bundles[parent].name}"))
    return lines


def _shown(bundle: Ancestor, measurement: str) -> str:
    measured: Mapping[str, object] = bundle.measurements or {}
    wanted = measurement or next(iter(measured), "")
    return wanted if wanted in measured else ""


def _edges(lineage: Lineage) -> list[tuple[str, str]]:
    edges = []
    for digest, bundle in lineage.bundles.items():
        edges += [(parent, digest) for parent in lineage.parents(digest)]
        edges += [(f"base {base}", digest) for base in _models(bundle)]
    return edges


def _models(bundle: Ancestor) -> tuple[str, ...]:
    """Return the models that a bundle without parents was built on; those of the others are their parents'."""
    return () if bundle.parents else tuple(dict.fromkeys(bundle.bases))


def _edge(places: Mapping[str, tuple[float, float]], heights: Mapping[str, float], source: str, target: str) -> str:
    (x, y), (end, below) = places[source], places[target]
    x, y, below = x + WIDTH, y + heights[source] / 2, below + heights[target] / 2
    middle = (x + end) / 2
    return f'<path class="edge" marker-end="url(#tip)" d="M{x} {y}C{middle} {y} {middle} {below} {end - 2} {below}"/>'


def _box(place: tuple[float, float], height: float, kind: str, lines: list[Line]) -> str:
    x, y = place
    drawn = [f'<rect class="{kind}" x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="8"/>']
    for number, (name, colour, text) in enumerate(lines):
        look = (f' class="{name}"' if name else "") + (f' style="fill:{colour}"' if colour else "")
        drawn.append(f'<text{look} x="{x + 12}" y="{y + MARGIN + 12 + number * LINE}">{escape(text)}</text>')
    return "".join(drawn)


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _svg(lineage: Lineage, wide: int, tall: int, drawn: list[str]) -> str:
    title = f"What {list(lineage.bundles.values())[-1].name} was built on"
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    size = f'viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="lineage-title lineage-words">',
        f'<title id="lineage-title">{escape(title)}</title>',
        f'<desc id="lineage-words">{escape(words(lineage))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<defs>{tip}<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{wide}" height="{tall}" fill="#fff"/>',
    ]
    return "\n".join([*head, *drawn, "</svg>\n"])

"""Lineages: ancestors found by digest wherever they lie, what each step gained, and the figure of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from kit.errors import BundleError
from kit.manifest import Base, Manifest, write
from kit.result import Measurement, Result
from kit.runner.differences import difference, differences
from kit.runner.lineage import lineage
from kit.runner.lineage_figure import figure, words

SVG = "{http://www.w3.org/2000/svg}"


def accuracy(value: float, width: float = 0.02) -> Measurement:
    return Measurement(value, "share", 400, value - width, value + width, split="test")


def bundle(folder: Path, name: str, measured: dict[str, Measurement], *parents: Manifest) -> Manifest:
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(name.encode())
    named = {parent.name: parent.digest() for parent in parents}
    base = Base("smollm2-135m", "ab", "Apache-2.0")
    results = Result(measured).to_json() if measured else {}
    return write(folder, Manifest("vision-language", name, (base,), parents=named, results=results))


@pytest.fixture
def family(tmp_path: Path) -> tuple[Path, list[Manifest]]:
    """A bundle, its child by votes, and a small copy of the child, in three places."""
    parent = bundle(tmp_path / "runs" / "teach" / "ab12" / "seeing", "Sees", {"accuracy": accuracy(0.6)})
    child = bundle(tmp_path / "elsewhere" / "deep" / "child", "Liked <b>", {"accuracy": accuracy(0.7)}, parent)
    copy = bundle(tmp_path / "copies" / "small", "Small", {"accuracy": accuracy(0.69), "mb": accuracy(3)}, child)
    return tmp_path, [parent, child, copy]


def test_ancestors_are_found_by_digest_wherever_they_lie(family: tuple[Path, list[Manifest]]) -> None:
    place, manifests = family
    found = lineage(place / "copies" / "small", among=[place / "runs", place / "elsewhere"])
    assert list(found.bundles) == [one.digest() for one in manifests]
    assert [found.generation(digest) for digest in found.bundles] == [0, 1, 2]
    gain = found.gains(manifests[1].digest(), manifests[0].digest())["accuracy"]
    assert gain.value == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1 - math.hypot(0.02, 0.02))
    assert (gain.direction, gain.clear) == ("better", True)


def test_an_ancestor_that_is_not_here_stays_named(family: tuple[Path, list[Manifest]]) -> None:
    place, manifests = family
    found = lineage(place / "copies" / "small", among=[place / "runs"])
    assert list(found.bundles) == [manifests[1].digest(), manifests[2].digest()]
    lost = found.bundles[manifests[1].digest()]
    assert (lost.name, lost.folder) == ("Liked <b>", None)
    assert "which is not here" in words(found)
    assert 'class="away"' in figure(found)


def test_a_half_written_run_is_no_ancestor(family: tuple[Path, list[Manifest]]) -> None:
    place, _ = family
    (place / "elsewhere" / "deep").rename(place / "elsewhere" / ".partial-12-99")
    (place / "runs" / "manifest.json").write_text("{}")  # another program's
    assert len(lineage(place / "copies" / "small", among=[place / "runs", place / "elsewhere"]).bundles) == 2


def test_two_parents_and_a_shared_grandparent(tmp_path: Path) -> None:
    root = bundle(tmp_path / "root", "Root", {"accuracy": accuracy(0.5)})
    left = bundle(tmp_path / "left", "Left", {"accuracy": accuracy(0.6)}, root)
    right = bundle(tmp_path / "right", "Right", {}, root)
    bundle(tmp_path / "merged", "Merged", {"accuracy": accuracy(0.55)}, left, right)
    found = lineage(tmp_path / "merged")
    assert [one.name for one in found.bundles.values()] == ["Root", "Left", "Right", "Merged"]
    text = words(found)
    assert "▼ worse -0.05 [-0.0783, -0.0217]" in text
    assert "against Left" in text
    assert "against Right" not in text  # nothing was measured of it


def test_the_figure_is_an_svg_without_the_network_that_reads_without_colour(
    family: tuple[Path, list[Manifest]],
) -> None:
    place, manifests = family
    drawn = ET.fromstring(figure(lineage(place / "copies" / "small", among=[place])))
    texts = [text.text or "" for text in drawn.iter(f"{SVG}text")]
    for wanted in ("smollm2-135m", "Sees", "Liked <b>", "Small", "▲ better +0.1 [+0.0717, +0.128]"):
        assert wanted in texts
    assert len(list(drawn.iter(f"{SVG}path"))) == 1 + len(manifests)  # the arrow's tip, and a line into each
    assert drawn.get("role") == "img"
    assert "Small" in (drawn.findtext(f"{SVG}title") or "")
    assert not [value for one in drawn.iter() for value in one.attrib.values() if value.startswith("http")]
    boxes = [{key: float(box.get(key, 0)) for key in ("x", "y", "width", "height")} for box in drawn.iter(f"{SVG}rect")]
    whole, *inside = boxes
    assert all(box["x"] + box["width"] <= whole["width"] for box in inside)
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= whole["height"] for box in inside)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        lineage(tmp_path)


def test_differences_need_the_same_unit_and_split() -> None:
    test, val = accuracy(0.5), Measurement(0.5, "share", 9, split="val")
    assert list(differences({"a": test, "b": val}, {"a": accuracy(0.6), "b": test, "c": test})) == ["a"]


def test_a_difference_without_intervals_is_never_clear() -> None:
    found = difference("seconds", Measurement(3, "s", 1, better="lower"), Measurement(2, "s", 1, better="lower"))
    assert (found.direction, found.clear, str(found)) == ("better", False, "-1 s")


def test_the_command_draws_it(family: tuple[Path, list[Manifest]], kit: Callable[..., object]) -> None:
    place, _ = family
    done = kit("lineage", "copies/small", "--among", "elsewhere", "--out", "lineage.svg")
    assert done.returncode == 0, done.stderr
    assert "▲ better +0.1" in done.stdout
    assert (place / "lineage.svg").read_text().startswith("<svg")

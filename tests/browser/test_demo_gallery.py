"""Pictures of a bundle's page and of a report show what they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_bundles import clip_bundle

from kit.sharing.gallery import page_pictures, report_picture

pytestmark = [pytest.mark.browser, pytest.mark.soak]


def colours(path: Path) -> int:
    with Image.open(path) as image:
        return len(image.convert("RGB").resize((200, 200)).getcolors(1_000_000))


def test_pages_and_reports_have_their_pictures_taken(
    chromium: str, need: Callable[[bool, str], None], tmp_path: Path
) -> None:
    files = page_pictures(clip_bundle(tmp_path / "made"), tmp_path / "to", "demo-it", words="a red thing")
    assert [path.name for path in files] == ["demo-it.png", "demo-it-phone.png"]
    assert [Image.open(path).size for path in files] == [(1100, 760), (750, 1520)]
    assert all(colours(path) > 300 for path in files), "no pictures were found"
    (tmp_path / "report.html").write_text("<body style='background: linear-gradient(red, blue)'>")
    assert colours(report_picture(tmp_path / "report.html", tmp_path / "to")) > 20

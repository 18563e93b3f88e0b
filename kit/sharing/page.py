"""The page itself: one file with its style and script inside, which asks nobody else for anything."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import kit.humaneval

FOLDER = Path(__file__).parent / "page"
COMMON = Path(kit.humaneval.__file__).parent / "common.js"
SCRIPTS = (
    COMMON,
    *(FOLDER / name for name in ("outbox.js", "views.js", "forms.js", "vote.js", "owner.js", "start.js")),
)


@cache
def page_html() -> str:
    """Return the page, style and script inside: one request, and it works on a bad connection from then on."""
    html = (FOLDER / "page.html").read_text(encoding="utf-8")
    style, script = _parts()
    return html.replace("/*style*/", style).replace("/*script*/", script)


@cache
def page_policy() -> str:
    """Return the content security policy: this very style and script, pictures that came along, nothing else."""
    style, script = (f"'sha256-{_digest(text)}'" for text in _parts())
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src data:; media-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


@cache
def _parts() -> tuple[str, str]:
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    script = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    return style, script


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

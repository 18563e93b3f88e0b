"""What kit loads at its start."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "open_clip", "timm", "numpy", "papermill", "nbconvert", "nbformat", "IPython")


def loaded(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter holds after running ``code``."""
    text = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return set(eval(done.stderr.splitlines()[-1]))


HELP = """
from kit.cli import main
sys.argv = ["kit", {words}"--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("words", ["", "'run', ", "'parts', 'pull', "])
def test_help_loads_nothing_heavy(words: str) -> None:
    assert loaded(HELP.format(words=words)) == set()


def test_import_kit_loads_nothing_heavy() -> None:
    assert loaded("import kit") == set()


def test_the_check_can_fail() -> None:
    assert loaded("import nbformat") == {"nbformat"}

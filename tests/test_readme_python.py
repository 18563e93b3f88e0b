"""The README's Python, run as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.soak
def test_the_readmes_python_runs(root: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    with_kit, seeing, without_kit = blocks
    done = subprocess.run([sys.executable, "-c", with_kit], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"0\.\d+ share \[.*\], n=\d+, baseline", done.stdout)
    saw = subprocess.run([sys.executable, "-c", seeing], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert saw.returncode == 0, saw.stderr[-3000:]
    assert (tmp_path / "kit-output" / "seeing" / "manifest.json").is_file()
    alone = "import sys; sys.modules['kit'] = None\n" + without_kit + "print(tokenizer(['a cat']).shape, model.visual)"
    opened = subprocess.run(
        [sys.executable, "-c", alone], cwd=tmp_path / "kit-output" / "my-clip", capture_output=True, text=True,
        timeout=120, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert opened.returncode == 0, opened.stderr[-3000:]

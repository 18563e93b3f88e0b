"""Curation of a million rows: every decision on the disk, taken back and read again, in bounded memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Contents, classes and scores by lot. Repeats and surplus are counted apart by numpy.
SCRIPT = """
    import json, sys, time
    from pathlib import Path
    import numpy as np, psutil
    from kit.data.curate import class_balance, exact_duplicates, label_noise, low_agreement
    from kit.data.curation import Curation

    n, path, rng = 1_000_000, Path(sys.argv[1]), np.random.default_rng(0)
    ids = tuple(f"row{number}" for number in range(n))
    contents, classes = rng.integers(0, 900_000, n), rng.integers(0, 90, n)
    scores = np.where(rng.random(n) < 0.3, rng.normal(-3, 1, n), rng.normal(0, 1, n))
    process, began, most = psutil.Process(), time.monotonic(), 0
    curation = Curation(ids, path)
    for found in (
        exact_duplicates(ids, [str(one) for one in contents.tolist()]),
        class_balance(ids, [str(one) for one in classes.tolist()], at_most=8_000),
        low_agreement(ids, scores),
        label_noise(ids, -scores),
    ):
        curation.record(found)
        most = max(most, process.memory_info().rss)
    dropped, counts = len(curation.dropped()), dict(curation.counts())
    wall_s = time.monotonic() - began
    again = len(Curation(ids, path).dropped())
    for check in counts:
        curation.undo(check=check)
    print(json.dumps({
        "counts": counts, "dropped": dropped, "again": again, "undone": len(Curation(ids, path).dropped()),
        "repeats": n - len(np.unique(contents)), "surplus": int((np.bincount(classes) - 8_000).clip(0).sum()),
        "seconds": wall_s, "gib": most / 2**30,
    }))
"""


@pytest.mark.soak
def test_a_million_rows(tmp_path: Path) -> None:
    words = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "ledger.jsonl")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["counts"]["exact duplicate"] == found["repeats"]
    assert found["counts"]["class balance"] == found["surplus"]
    assert 0.25 < found["counts"]["caption disagrees"] / 1e6 < 0.35
    assert found["again"] == found["dropped"] > found["repeats"]
    assert found["undone"] == 0
    assert found["gib"] < 2

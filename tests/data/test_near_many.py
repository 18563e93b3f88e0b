"""Near-duplicates among a million embeddings: minutes, memory and recall, measured in a process of its own."""

import json
import subprocess
import sys
import textwrap

import pytest

ROWS, WIDTH, TOPICS = 1_000_000, 512, 5_000

# Rows gather around topics as embeddings of pictures do; a fifth repeat another row, more or less nearly, some of
# them in crowds. Written in halves to a file, and read as a memory map.
SCRIPT = """
    import json, sys, threading, time
    import numpy as np, psutil
    from kit.data.near import near_pairs, thin
    from kit.data.near_search import search_of, unit

    path, n, width, topics, asked = sys.argv[1], *map(int, sys.argv[2:])
    rng = np.random.default_rng(0)
    originals = n - n // 5
    centres = unit(rng.standard_normal((topics, width), dtype=np.float32))
    vectors = np.memmap(path, dtype=np.float16, mode="w+", shape=(n, width))
    for start in range(0, originals, 50_000):
        stop = min(start + 50_000, originals)
        own = centres[rng.integers(0, topics, stop - start)]
        spread = unit(rng.standard_normal((stop - start, width), dtype=np.float32))
        vectors[start:stop] = unit(own + spread * rng.uniform(0.6, 1.4, (stop - start, 1)).astype(np.float32))
    for start in range(originals, n, 50_000):
        stop = min(start + 50_000, n)
        crowd = rng.random(stop - start) < 0.02
        source = np.where(crowd, rng.integers(0, 20, stop - start), rng.integers(0, originals, stop - start))
        apart = unit(rng.standard_normal((stop - start, width), dtype=np.float32))
        apart *= rng.uniform(0.0, 0.4, (stop - start, 1)).astype(np.float32)  # cosines from 1 down to 0.93
        vectors[start:stop] = unit(vectors[source].astype(np.float32) + apart)
    vectors.flush()
    vectors = np.memmap(path, dtype=np.float16, mode="r", shape=(n, width))

    process, peak, over = psutil.Process(), [0], threading.Event()
    def watch():
        while not over.wait(0.2):
            peak[0] = max(peak[0], process.memory_info().rss)
    threading.Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    search = search_of(vectors, at_least=0.95)
    found = thin(vectors, at_least=0.95, search=search)
    wall_s = time.monotonic() - began
    over.set()

    # Recall against exact search, pair by pair, of queries by lot.
    queries = np.sort(np.random.default_rng(1).choice(n, asked, replace=False))
    pairs = near_pairs(search, vectors, queries, at_least=0.95)
    quick = set(zip(pairs.left.tolist(), pairs.right.tolist()))
    asking, wanted = unit(vectors[queries]), set()
    for start in range(0, n, 8_192):
        block = unit(vectors[start : start + 8_192]).T
        for first in range(0, asked, 4_000):
            at, place = np.nonzero(asking[first : first + 4_000] @ block >= 0.95)
            wanted |= set(zip(queries[first + at].tolist(), (start + place).tolist()))
    wanted = {(left, right) for left, right in wanted if left != right}
    full = set(pairs.full.tolist())  # of a crowd, any sixteen are as good
    wanted = {pair for pair in wanted if pair[0] not in full}
    print(json.dumps({
        "wall_s": wall_s, "peak_gib": peak[0] / 2**30, "dropped": len(found.dropped), "told": found.recall.low,
        "recall": len(wanted & quick) / len(wanted), "pairs": len(wanted), "probes": search.probes,
    }))
"""


@pytest.mark.soak
def test_a_million_embeddings_are_thinned_within_minutes_and_four_gigabytes(tmp_path):
    pytest.importorskip("faiss")
    words = [tmp_path / "vectors.f16", ROWS, WIDTH, TOPICS, 20_000]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["wall_s"] < 600, found
    assert found["peak_gib"] < 4, found
    assert found["recall"] >= 0.95, found
    assert found["pairs"] > 1000, found
    assert found["dropped"] > ROWS / 10, found

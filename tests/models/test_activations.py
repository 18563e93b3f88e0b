"""The store: computed once, checked, bounded, and safe under kills and company."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from kit.errors import ModelError
from kit.models import activations
from kit.models.activations import ActivationStore, default_limit_gib

WORKER = """
import os, sys, time
import numpy as np
from pathlib import Path
from kit.models.activations import ActivationStore

root, log, pause, hang_at = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
names = [f"input {number}" for number in range(12)]

def compute(positions):
    for start in range(0, len(positions), 3):
        block = positions[start : start + 3]
        if start == hang_at:
            print("hanging", flush=True)
            time.sleep(600)
        time.sleep(pause)
        with log.open("a") as file:
            file.writelines(f"{position}\\n" for position in block)
        yield np.array([[position, position * 2.0] for position in block], dtype=np.float32)

print("ready", flush=True)
while not log.exists():
    time.sleep(0.001)
found = ActivationStore(root, limit_gib=1).fetch("key", names, compute)
assert found.all()[:, 0].tolist() == list(range(12)), found.all()
print(found.computed)
"""


class Tower:
    """Gives each input its position's square, and keeps count."""

    def __init__(self, block=3, width=4):
        self.block, self.width, self.asked = block, width, []

    def __call__(self, names):
        def compute(positions):
            for start in range(0, len(positions), self.block):
                here = [names[position] for position in positions[start : start + self.block]]
                self.asked += here
                yield np.array([[float(name)] * self.width for name in here], dtype=np.float32)

        return compute


def fetch(store, tower, names, key="k"):
    names = [str(name) for name in names]
    return store.fetch(key, names, tower(names))


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "store", limit_gib=1)


def test_each_input_is_computed_once_and_comes_back_in_order(store):
    tower = Tower()
    wanted = [5, 3, 5, 8, 1, 3, 9]
    found = fetch(store, tower, wanted)
    assert found.all()[:, 0].tolist() == wanted
    assert tower.asked == ["5", "3", "8", "1", "9"]
    assert found.computed == 5
    assert len(found) == 7
    assert found.width == 4
    more = fetch(store, tower, [9, 2, 5])
    assert more.all()[:, 0].tolist() == [9, 2, 5]
    assert tower.asked[5:] == ["2"]
    assert found.take([6, 0, 6])[:, 0].tolist() == [9, 5, 9]
    assert found.take([]).shape == (0, 4)
    assert found.all().dtype == torch.float32


def test_keys_do_not_mix(store):
    tower = Tower()
    fetch(store, tower, [1], key="a")
    assert fetch(store, tower, [1], key="b").computed == 1
    assert fetch(store, tower, [1], key="a").computed == 0


def test_the_identity_is_key_and_inputs(store):
    tower = Tower()
    digests = {fetch(store, tower, names, key).digest for names in ([1, 2], [2, 1], [1]) for key in ("a", "b")}
    assert len(digests) == 6
    assert fetch(store, tower, [1, 2], "a").digest in digests


def test_shards_are_mapped_and_not_loaded(store):
    for _ in range(2):  # as written, and as read back
        found = fetch(store, Tower(), range(7))
        assert len(found.shards) == 3
        assert all(isinstance(shard, np.memmap) for shard in found.shards)


def test_a_fresh_tensor_may_be_changed(store):
    found = fetch(store, Tower(), [1, 2])
    found.all().add_(100)
    assert found.all()[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("damage", ["flip", "cut", "label", "names", "gone"])
def test_a_damaged_shard_is_computed_again(store, damage):
    fetch(store, Tower(), range(6))
    first = min((store.root / "k").glob("*.json"))
    array = first.with_suffix(".npy")
    if damage == "flip":
        raw = bytearray(array.read_bytes())
        raw[-1] ^= 1
        array.write_bytes(raw)
    elif damage == "cut":
        array.write_bytes(array.read_bytes()[:-4])
    elif damage == "label":
        first.write_text("{")
    elif damage == "names":
        values = json.loads(first.read_text())
        first.write_text(json.dumps({**values, "inputs": values["inputs"][:1]}))
    else:
        array.unlink()
    tower = Tower()
    found = fetch(store, tower, range(6))
    assert found.all()[:, 0].tolist() == list(range(6))
    assert len(tower.asked) == 3
    assert fetch(store, Tower(), range(6)).computed == 0, "it is whole again"


def test_half_written_files_are_ignored_and_removed(store):
    fetch(store, Tower(), range(3))
    folder = store.root / "k"
    whole = {file.name for file in folder.iterdir()}
    for name in ("dead.npy", "dead.npy.tmp", "dead.json.tmp"):
        (folder / name).write_bytes(b"half")
    assert fetch(store, Tower(), range(3)).computed == 0
    assert {file.name for file in folder.iterdir()} == whole


def test_what_was_yielded_is_kept_when_the_rest_fails(store):
    def compute(positions):
        yield np.zeros((2, 4), dtype=np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch("k", ["1", "2", "3"], compute)
    tower = Tower()
    fetch(store, tower, [1, 2, 3])
    assert tower.asked == ["3"]


def test_a_tower_that_gives_too_little_is_an_error(store):
    with pytest.raises(ModelError, match="2 inputs were given and 1 came back"):
        store.fetch("k", ["1", "2"], lambda positions: iter([np.zeros((1, 4), dtype=np.float32)]))


KIB = 2**-20  # in GiB


def test_the_least_recently_used_key_makes_room_and_never_what_is_asked_for(tmp_path):
    store = ActivationStore(tmp_path, limit_gib=40 * KIB)
    tower = Tower(width=1024, block=100)  # 4 KiB an input
    for number, key in enumerate("abc"):
        fetch(store, tower, range(3), key)
        os.utime(tmp_path / key, (number, number))
    fetch(store, tower, [0], "a")  # used just now
    fetch(store, tower, [1], "d")
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_dir()) == ["a", "c", "d"]
    assert store.size_bytes() <= store.limit_bytes
    fetch(store, tower, [10], "a")
    found = fetch(store, tower, [0, 1, 10, *range(20, 24)], "a")  # its own unasked shards go last
    assert found.all()[:, 0].tolist() == [0, 1, 10, 20, 21, 22, 23]
    assert store.size_bytes() <= store.limit_bytes


def test_this_keys_own_unasked_shards_make_room_too(tmp_path):
    store = ActivationStore(tmp_path, limit_gib=20 * KIB)
    tower = Tower(width=1024, block=1)
    fetch(store, tower, [1, 2, 3], "a")
    found = fetch(store, tower, [3, 4, 5], "a")
    assert found.all()[:, 0].tolist() == [3, 4, 5]
    assert tower.asked == ["1", "2", "3", "4", "5"]
    assert store.size_bytes() <= store.limit_bytes
    for number in range(6, 12):  # whatever order the shards' names have, what is asked for stays
        fetch(store, tower, [3, number], "a")
    assert tower.asked.count("3") == 1


def test_too_small_a_bound_is_a_clear_error_and_removes_nothing(tmp_path):
    store = ActivationStore(tmp_path, limit_gib=20 * KIB)
    tower = Tower(width=1024, block=1)
    fetch(store, tower, [1], "a")
    fetch(store, tower, [1], "b")
    with pytest.raises(ModelError, match=r"(?s)GiB are needed and .* GiB allowed.*raise KIT_CACHE_GIB"):
        fetch(store, tower, range(9), "c")
    assert fetch(store, tower, [1], "a").computed == fetch(store, tower, [1], "b").computed == 0


def test_what_was_evicted_can_still_be_read_by_who_has_it(tmp_path):
    store = ActivationStore(tmp_path, limit_gib=20 * KIB)
    tower = Tower(width=1024, block=1)
    mine = fetch(store, tower, [1, 2], "a")
    fetch(store, tower, range(4), "b")
    assert not (tmp_path / "a").exists()
    assert mine.all()[:, 0].tolist() == [1, 2]


def test_a_key_evicted_while_it_was_waited_for_is_made_again(tmp_path, monkeypatch):
    store = ActivationStore(tmp_path, limit_gib=1)
    fetch(store, Tower(), [1], "a")
    taken = activations.FileLock

    class Late(taken):
        """Another process makes room with the key just before its lock is had."""

        def acquire(self, *args, **kwargs):
            got = super().acquire(*args, **kwargs)
            activations.shutil.rmtree(tmp_path / "a", ignore_errors=True)
            return got

    monkeypatch.setattr(activations, "FileLock", Late)
    assert fetch(store, Tower(), [1], "a").all()[:, 0].tolist() == [1]


def test_the_bound_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("KIT_CACHE_GIB", raising=False)
    assert default_limit_gib() == 10
    monkeypatch.setenv("KIT_CACHE_GIB", "0.5")
    assert ActivationStore(tmp_path).limit_bytes == 2**29
    for bad in ("ten", "", "-1", "nan", "inf"):
        monkeypatch.setenv("KIT_CACHE_GIB", bad)
        with pytest.raises(ModelError, match="KIT_CACHE_GIB: must be a number of GiB above 0"):
            default_limit_gib()


def start(tmp_path, pause, hang_at=-1):
    command = [sys.executable, "-c", WORKER, *map(str, (tmp_path / "store", tmp_path / "log", pause, hang_at))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_compute_each_input_once(tmp_path):
    workers = [start(tmp_path, 0.1) for _ in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
    (tmp_path / "log").touch()  # both go
    answers = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(int(answer) for answer in answers) == [0, 12]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(12))


def test_a_killed_process_leaves_finished_shards_and_no_lock(tmp_path):
    worker = start(tmp_path, 0.0, hang_at=6)
    (tmp_path / "log").touch()
    # The second shard is written, the third is being computed.
    assert [worker.stdout.readline() for _ in range(2)] == ["ready\n", "hanging\n"]
    assert (tmp_path / "log").read_text().count("\n") == 6
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    after = start(tmp_path, 0.0)
    answer, _ = after.communicate(timeout=60)
    assert after.returncode == 0
    assert answer.split() == ["ready", "6"]

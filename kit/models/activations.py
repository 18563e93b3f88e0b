"""Frozen-prefix activations: computed once for each distinct input, kept memory-mapped, checked, bounded.

A store is a folder of keys; a key is the hash of the prefix's weights, its preprocessing and the cut; a key's folder
holds shards, each one ``.npy`` with the rows of some inputs and one ``.json`` that names the inputs and the rows'
hash. The ``.json`` is written last and makes the shard valid, so a kill leaves at most an ``.npy`` that nobody reads.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from kit.errors import Fault, ModelError
from kit.parts.pull import kit_home

DEFAULT_LIMIT_GIB = 10.0

Array = NDArray[np.generic]
# From positions in the list of inputs to their activations, in the same order, a block at a time.
Compute = Callable[[Sequence[int]], Iterator[Array]]


def default_limit_gib() -> float:
    """Return the store's bound: KIT_CACHE_GIB, else 10.

    Raises:
        ModelError: KIT_CACHE_GIB is no number above 0.
    """
    text = os.environ.get("KIT_CACHE_GIB", str(DEFAULT_LIMIT_GIB))
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise ModelError.of(
            "KIT_CACHE_GIB", f"must be a number of GiB above 0, got {text!r}", "set it to 10, or unset it"
        )
    return limit


@dataclass(frozen=True)
class Activations:
    """Activations of a list of inputs, read from disk where they are needed.

    Args:
        shards: Memory-mapped arrays, each of shape (rows, …).
        places: For each input, its shard and its row there, shape (n, 2).
        digest: Identity of key and inputs.
        computed: How many inputs were computed for this list; the others were there.
    """

    shards: tuple[Array, ...]
    places: NDArray[np.int64]
    digest: str
    computed: int

    def __len__(self) -> int:
        return len(self.places)

    @property
    def width(self) -> int:
        """How many numbers an input has."""
        return int(np.prod(self.shards[0].shape[1:]))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the activations of some inputs as a fresh tensor, shape (len(indices), …), float32."""
        wanted = self.places[np.asarray(indices, dtype=np.int64)]
        out = np.empty((len(wanted), *self.shards[0].shape[1:]), dtype=np.float32)
        for number in np.unique(wanted[:, 0]):
            here = wanted[:, 0] == number
            out[here] = self.shards[number][wanted[here, 1]]
        return torch.from_numpy(out)

    def all(self) -> Tensor:
        """Return all activations as one tensor, shape (n, …), float32."""
        return self.take(np.arange(len(self)))


class ActivationStore:
    """A bounded folder of activations, safe under two processes and a kill.

    Args:
        root: The folder; ``activations`` in kit's home by default.
        limit_gib: How large it may grow; the least recently used keys make room. KIT_CACHE_GIB by default, else 10.
    """

    def __init__(self, root: Path | None = None, *, limit_gib: float | None = None) -> None:
        self.root = root or kit_home() / "activations"
        self.limit_bytes = int((default_limit_gib() if limit_gib is None else limit_gib) * 2**30)

    def fetch(self, key: str, inputs: Sequence[str], compute: Compute) -> Activations:
        """Return the activations of ``inputs``, computing those that the store does not hold.

        Args:
            key: Identity of the prefix: hash of weights, preprocessing and cut.
            inputs: Identity of each input; repeats are computed once.
            compute: Yields the activations of the inputs at the given positions, block by block. Each block
                is kept as soon as it is there, so a killed run goes on where it stopped.

        Raises:
            ModelError: the activations do not fit into the bound.
            OSError: the folder cannot be written.
        """
        if not inputs:
            raise ModelError.of("activations", "there is nothing to encode", "give at least one picture or text")
        folder = self.root / key[:32]
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f"{key[:32]}.lock"):
            folder.mkdir(exist_ok=True)  # under the lock: another process may be making room with it
            os.utime(folder)
            shards, found, files = self._read(folder)
            missing = [position for position, name in _first_seen(inputs) if name not in found]
            needed = {files[found[name][0]] for name in inputs if name in found}
            done = 0
            for block in compute(missing) if missing else ():
                if not done:
                    self._make_room(len(missing) * block[:1].nbytes, folder=folder, needed=needed)
                names = [inputs[position] for position in missing[done : done + len(block)]]
                shard = _write(folder, names, block)
                found.update({name: (len(shards), row) for row, name in enumerate(names)})
                shards.append(shard)
                done += len(block)
        if done != len(missing):
            raise ModelError.of("activations", f"{len(missing)} inputs were given and {done} came back")
        places = np.array([found[name] for name in inputs], dtype=np.int64)
        identity = hashlib.sha256("\n".join([key, *inputs]).encode()).hexdigest()
        _note(key, len(inputs), len(missing))
        return Activations(tuple(shards), places, identity, computed=len(missing))

    def size_bytes(self) -> int:
        """Return what the store takes on disk."""
        return sum(_size(folder) for folder in self._keys())

    def _keys(self) -> list[Path]:
        return [entry for entry in self.root.iterdir() if entry.is_dir()] if self.root.is_dir() else []

    def _make_room(self, wanted: int, *, folder: Path, needed: set[Path]) -> None:
        """Remove the least recently used keys, then this key's shards that nobody asked for, until ``wanted`` fits."""
        asked = wanted + sum(_bytes(label.with_suffix(".npy")) for label in needed)
        if asked > self.limit_bytes:  # looked at first, so that nothing is removed in vain
            raise self._too_small(asked)
        used = self.size_bytes()
        for other in sorted((entry for entry in self._keys() if entry != folder), key=_used_at):
            if used + wanted <= self.limit_bytes:
                return
            used -= _drop(other)
        for label in sorted(set(folder.glob("*.json")) - needed):
            if used + wanted <= self.limit_bytes:
                return
            used -= _bytes(label.with_suffix(".npy"))
            label.unlink()
            label.with_suffix(".npy").unlink()
        if used + wanted > self.limit_bytes:  # what is left is being written by other processes
            raise self._too_small(used + wanted)

    def _too_small(self, asked: int) -> ModelError:
        what = f"{asked / 2**30:.3g} GiB are needed and {self.limit_bytes / 2**30:.3g} GiB allowed"
        return ModelError(Fault("activations", what, "raise KIT_CACHE_GIB, or take fewer rows"))

    def _read(self, folder: Path) -> tuple[list[Array], dict[str, tuple[int, int]], list[Path]]:
        shards: list[Array] = []
        files: list[Path] = []
        found: dict[str, tuple[int, int]] = {}
        valid = set()
        for label in sorted(folder.glob("*.json")):
            shard = _open(label)
            if shard is None:
                continue  # damaged: its inputs are computed again
            names, array = shard
            found.update({name: (len(shards), row) for row, name in enumerate(names)})
            shards.append(array)
            files.append(label)
            valid |= {label, label.with_suffix(".npy")}
        for leftover in set(folder.iterdir()) - valid:
            leftover.unlink()
        return shards, found, files


def _note(key: str, inputs: int, computed: int) -> None:
    """Note what was computed where KIT_CACHE_LOG says, for a sweep to count; one short line is written whole."""
    if path := os.environ.get("KIT_CACHE_LOG"):
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"key": key, "inputs": inputs, "computed": computed}) + "\n")


def _first_seen(inputs: Sequence[str]) -> Iterator[tuple[int, str]]:
    seen: set[str] = set()
    for position, name in enumerate(inputs):
        if name not in seen:
            seen.add(name)
            yield position, name


def _write(folder: Path, names: Sequence[str], block: Array) -> Array:
    stem = hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
    array = np.ascontiguousarray(block)
    target = folder / f"{stem}.npy"
    with (folder / f"{stem}.npy.tmp").open("wb") as file:
        np.save(file, array, allow_pickle=False)
    (folder / f"{stem}.npy.tmp").replace(target)
    label = {"inputs": list(names), "sha256": _file_sha256(target)}
    (folder / f"{stem}.json.tmp").write_text(json.dumps(label), encoding="utf-8")
    (folder / f"{stem}.json.tmp").replace(folder / f"{stem}.json")
    mapped: Array = np.load(target, mmap_mode="r", allow_pickle=False)
    return mapped


def _open(label: Path) -> tuple[list[str], Array] | None:
    file = label.with_suffix(".npy")
    try:
        values = json.loads(label.read_text(encoding="utf-8"))
        if _file_sha256(file) != values["sha256"]:
            return None
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (values["inputs"], array) if len(values["inputs"]) == len(array) else None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path) -> int:
    return sum(_bytes(file) for file in folder.glob("*.npy"))


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # another process has just made room with it
        return 0


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _drop(folder: Path) -> int:
    """Remove a key's folder unless another process holds it; return the bytes that this freed."""
    try:
        with FileLock(folder.parent / f"{folder.name}.lock", timeout=0):
            freed = _size(folder)
            if folder.is_dir():
                shutil.rmtree(folder)
            return freed
    except Timeout:
        return 0

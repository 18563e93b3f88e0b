"""Checkpoints of a training run: atomic, read without pickle, and never those of another run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kit.errors import ModelError
from kit.models import products

EVERY_S = 15.0  # between the checkpoints of a run's own; SmolLM2's adapters with their moments are written in 0.1 s
LEAST_S = 1.0  # what took less is trained again sooner than it is read


class Reached(NamedTuple):
    """How far a run had come: the losses of its steps, and the seconds that they took."""

    losses: list[float]
    wall_s: float


@dataclass(frozen=True)
class Checkpoint:
    """The newest checkpoint of one run.

    Args:
        path: The file.
        key: Identity of the run that it belongs to.
    """

    path: Path
    key: str

    @classmethod
    def at(cls, folder: Path, key: str) -> Checkpoint:
        """Return the checkpoint of the run ``key`` in ``folder``, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"fit-{key[:16]}.pt", key)

    def save(
        self, weights: Mapping[str, Tensor], optimizer: Any, scheduler: Any, losses: list[float], wall_s: float = 0.0
    ) -> None:
        """Write weights, optimiser, schedule and losses; an older checkpoint stays until the new one is whole.

        Args:
            weights: Everything that training changes: trained parameters, and buffers such as running means.
            optimizer: The optimiser.
            scheduler: The schedule of its learning rate.
            losses: The loss of every step so far.
            wall_s: Seconds that they took.

        Raises:
            ModelError: the disk is full.
        """
        state = {
            "key": self.key,
            "weights": {name: tensor.detach() for name, tensor in weights.items()},
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "losses": losses,
            "wall_s": wall_s,
        }
        partial = self.path.with_suffix(".tmp")
        with products.full_disk_told(self.path.parent):
            torch.save(state, partial)
        partial.replace(self.path)

    def load(self, weights: Mapping[str, Tensor], optimizer: Any, scheduler: Any) -> Reached:
        """Put the checkpoint's state into place and return how far it had come; nowhere when there is none.

        Raises:
            ModelError: a damaged file, or one of another run.
        """
        if not self.path.exists():
            return Reached([], 0.0)
        try:
            state = self._read()
        except Exception as error:
            raise ModelError.of(
                str(self.path), f"cannot be read: {error}", "delete it to train from the start"
            ) from error
        if state["key"] != self.key:
            raise ModelError.of(str(self.path), "belongs to another run", "delete it to train from the start")
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        return Reached(state["losses"], float(state.get("wall_s", 0.0)))

    def _read(self) -> dict[str, Any]:
        # torch reads a damaged tensor without a word: it leaves out the check of the archive's checksums.
        with zipfile.ZipFile(self.path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if missing := {"key", "weights", "optimizer", "scheduler", "losses"} - state.keys():
            raise ValueError(f"it holds no {', '.join(sorted(missing))}")
        return state


@dataclass
class Saving:
    """When a run is saved, and where: in a folder that the caller named, in the run's own, or nowhere.

    Args:
        checkpoint: The file; None for none.
        every: Steps between checkpoints; 0 for seconds.
        saved_s: Seconds of training that the newest one holds.
    """

    checkpoint: Checkpoint | None = None
    every: int = 0
    saved_s: float = 0.0

    @classmethod
    def of(cls, folder: Path | None, every: int, key: Callable[[], str]) -> Saving:
        """Return where the run of this key is saved."""
        if folder is not None:
            return cls(Checkpoint.at(folder, key()), every)
        own = products.folder()
        return cls() if own is None else cls(Checkpoint.at(own, products.numbered(f"fit|{key()}")))

    def load(self, weights: Mapping[str, Tensor], optimizer: Any, scheduler: Any) -> Reached:
        """Put the newest state into place, see ``Checkpoint.load``."""
        if self.checkpoint is None:
            return Reached([], 0.0)
        reached = self.checkpoint.load(weights, optimizer, scheduler)
        self.saved_s = reached.wall_s
        return reached

    def due(self, steps: int, taken_s: float, *, last: int) -> bool:
        """Return whether to save now, after so many steps and seconds of a run that ends at the step ``last``."""
        if self.checkpoint is None:
            return False
        if self.every:
            return steps == last or steps % self.every == 0
        return taken_s - self.saved_s >= (LEAST_S if steps == last else EVERY_S)

    def save(
        self, weights: Mapping[str, Tensor], optimizer: Any, scheduler: Any, losses: list[float], taken_s: float
    ) -> None:
        """Save, see ``Checkpoint.save``."""
        if self.checkpoint is not None:
            self.checkpoint.save(weights, optimizer, scheduler, losses, taken_s)
            self.saved_s = taken_s

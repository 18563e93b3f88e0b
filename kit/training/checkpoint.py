"""Checkpoints of a training run: atomic, read without pickle, and never those of another run."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.errors import ModelError


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

    def save(self, weights: Mapping[str, Tensor], optimizer: Any, scheduler: Any, losses: list[float]) -> None:
        """Write weights, optimiser, schedule and losses; an older checkpoint stays until the new one is whole.

        Args:
            weights: Everything that training changes: trained parameters, and buffers such as running means.
            optimizer: The optimiser.
            scheduler: The schedule of its learning rate.
            losses: The loss of every step so far.
        """
        state = {
            "key": self.key,
            "weights": {name: tensor.detach() for name, tensor in weights.items()},
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "losses": losses,
        }
        partial = self.path.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self.path)

    def load(self, weights: Mapping[str, Tensor], optimizer: Any, scheduler: Any) -> list[float]:
        """Put the checkpoint's state into place and return its losses; an empty list when there is none.

        Raises:
            ModelError: a damaged file, or one of another run.
        """
        if not self.path.exists():
            return []
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
        losses: list[float] = state["losses"]
        return losses

    def _read(self) -> dict[str, Any]:
        # torch reads a damaged tensor without a word: it leaves out the check of the archive's checksums.
        with zipfile.ZipFile(self.path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if missing := {"key", "weights", "optimizer", "scheduler", "losses"} - state.keys():
            raise ValueError(f"it holds no {', '.join(sorted(missing))}")
        return state

"""Checkpoints of a training run: atomic, read without pickle, and never those of another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

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

    def save(self, trained: Mapping[str, nn.Parameter], optimizer: Any, scheduler: Any, losses: list[float]) -> None:
        """Write weights, optimiser, schedule and losses; an older checkpoint stays until the new one is whole."""
        state = {
            "key": self.key,
            "weights": {name: parameter.detach() for name, parameter in trained.items()},
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "losses": losses,
        }
        partial = self.path.with_suffix(".tmp")
        torch.save(state, partial)
        partial.replace(self.path)

    def load(self, trained: Mapping[str, nn.Parameter], optimizer: Any, scheduler: Any) -> list[float]:
        """Put the checkpoint's state into place and return its losses; an empty list when there is none.

        Raises:
            ModelError: a damaged file, or one of another run.
        """
        if not self.path.exists():
            return []
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ModelError.of(
                str(self.path), f"cannot be read: {error}", "delete it to train from the start"
            ) from error
        if state.get("key") != self.key:
            raise ModelError.of(str(self.path), "belongs to another run", "delete it to train from the start")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        losses: list[float] = state["losses"]
        return losses

"""Training curves for trackio, which keeps them on this machine: ``trackio show`` draws them. Off unless asked for."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.errors import ModelError

PROJECT = "KIT_CURVES"  # trackio's project; ``--curves`` sets it to the recipe's name
# What would let trackio send curves away, to a Space, a bucket or another server.
_ELSEWHERE = tuple(f"TRACKIO_{word}" for word in ("SPACE_ID", "SERVER_URL", "DATASET_ID", "BUCKET_ID", "WEBHOOK_URL"))


def write_curve(losses: Sequence[float], *, label: str, settings: Mapping[str, Any]) -> None:
    """Write a training's losses where ``trackio show`` finds them; nothing unless ``KIT_CURVES`` names a project.

    Args:
        losses: The loss of each step.
        label: What the training is called; with the run's digest it is the curve's name.
        settings: The training's settings.

    Raises:
        ModelError: trackio is not installed.
    """
    project = os.environ.get(PROJECT)
    if not project or not losses:
        return
    try:
        import trackio
    except ImportError as error:
        raise ModelError.of(PROJECT, "trackio is not installed", "pip install 'multimodal-kit[curves]'") from error
    plain = {name: value for name, value in settings.items() if isinstance(value, int | float | str)}
    with _at_home(), contextlib.redirect_stdout(io.StringIO()):  # it explains itself each time
        trackio.init(project, name=_name(label), config=plain, embed=False, auto_log_cpu=False, auto_log_gpu=False)
        for step, loss in enumerate(losses, start=1):
            trackio.log({"loss": loss}, step=step)
        trackio.finish()


def _name(label: str) -> str:
    """Return a curve's name: the digest of the run that it is part of, if any, and what is trained."""
    folder = Path(os.environ.get("KIT_RUN_DIR", "")).name.removeprefix(".partial-")
    return " ".join(word for word in (folder.split("-")[0], label) if word)


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in _ELSEWHERE if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)

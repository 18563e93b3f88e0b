"""One training loop, on accelerate: any model, any objective, resumable to the same numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.errors import ModelError, raise_faults
from kit.models.activations import Activations
from kit.progress import track
from kit.training.checkpoint import Saving
from kit.training.columns import Column, Indices, as_columns
from kit.training.curves import write_curve
from kit.training.identity import run_key
from kit.training.plan import estimate, require_memory
from kit.training.settings import setting_faults

if TYPE_CHECKING:
    from accelerate import Accelerator

Objective = Callable[..., Tensor]


@dataclass(frozen=True)
class Fit:
    """What a training run was.

    Args:
        losses: The loss at each step, in the objective's unit.
        wall_s: Seconds that the steps took, those before a resumption among them.
        resumed_at: The step that it went on from; 0 for a run from the start.
        trained: How many parameters were trained.
        settings: What it was asked to do.
    """

    losses: tuple[float, ...]
    wall_s: float
    resumed_at: int
    trained: int
    settings: dict[str, Any] = field(default_factory=dict)


def fit(
    model: nn.Module,
    objective: Objective,
    columns: Sequence[Tensor | Activations | Column],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    accumulate: int = 1,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    beta2: float = 0.999,
    warmup: float = 0.05,
    clip_norm: float = 1.0,
    seed: int = 0,
    precision: str = "no",
    check_memory: bool = True,
    checkpoint: Path | None = None,
    every: int = 100,
    stop_after: int | None = None,
    label: str = "training",
) -> Fit:
    """Train ``model`` in place and leave it in evaluation mode.

    AdamW, linear warm-up and cosine decay, gradients clipped by their global norm. Order of rows, dropout and
    every other chance of a step follow from ``seed`` and the step's number alone, so a run that was stopped and
    resumed ends with the numbers of one that was not. With "fp16" that is nearly so: the loss scaler's state is in
    no checkpoint, so a resumed run finds its scale anew. The caller's own torch generators, the CPU's and the
    device's, are left as they were.

    Args:
        model: What is trained: every parameter with ``requires_grad``.
        objective: From (model, one tensor per column) to a scalar loss.
        columns: What a batch is made of; equal lengths n. Each epoch uses every row once, in batches that differ
            by at most one row. A column may draw anything that has ``to(device)``.
        epochs: Passes over the rows; give this or ``steps``.
        steps: Optimiser steps.
        batch_size: Rows a step, over all processes, as nearly as equal batches allow; at most n is used.
        accumulate: Parts that a step's rows are taken in, one after the other, to save memory. A loss that is a mean
            gives the numbers of the whole batch: parts count by their rows, or by the objective's ``count(*batch)``
            where it has one. A loss that compares rows with each other compares those of a part only.
        lr: Highest learning rate.
        weight_decay: On matrices; vectors and scalars (biases, temperatures) have none.
        beta2: How slowly AdamW forgets the size of past gradients, 0 < beta2 < 1. Short runs that begin with a large
            loss are given 0.98, as CLIP's transformers were (arXiv:2103.00020, table 19).
        warmup: Share of the steps during which the rate rises, 0 <= warmup < 1.
        clip_norm: Largest global norm of the gradient.
        seed: Seed of everything.
        precision: accelerate's mixed precision: "no", "bf16" or "fp16".
        check_memory: Estimate first whether the run fits into memory, where a column knows its ``largest`` part.
        checkpoint: Folder for checkpoints; None for the run's own under ``kit run``, which goes on there when it was
            killed, and for none elsewhere. A run with other settings, data or starting weights has another file there.
        every: Steps between checkpoints in a folder that you name; in the run's own they are 15 seconds apart.
        stop_after: Leave at this step of the run, whose schedule is not shortened; with ``checkpoint`` the next
            call goes on from there. None for all steps.
        label: What the progress bar calls it.

    Raises:
        ModelError: settings that make no run, all at once; nothing to train; not enough memory by estimate; a loss
            that is no number.
        DataError: empty or unequal columns.
    """
    columns = as_columns(columns)
    rows = len(columns[0])
    settings: dict[str, Any] = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    settings |= {"weight_decay": weight_decay, "warmup": warmup, "clip_norm": clip_norm, "precision": precision}
    settings |= {"accumulate": accumulate, "beta2": beta2}
    raise_faults(setting_faults(settings | {"every": every, "stop_after": stop_after}), ModelError)
    batches = max(1, round(rows / batch_size))
    total = steps if steps is not None else int(epochs or 0) * batches
    run = _Run.prepare(model, settings, total)
    if check_memory:
        rows_at_once = math.ceil(batch_size / run.accelerator.num_processes / accumulate)
        for column in (column for column in columns if hasattr(column, "largest")):
            require_memory(estimate(model, column.largest(rows_at_once), precision=precision))
    saved = Saving.of(checkpoint, every, lambda: run_key(settings, objective, columns, model.state_dict()))
    losses, before_s = saved.load(run.changing(), run.optimizer, run.scheduler)
    start, began = len(losses), time.perf_counter() - before_s
    last = min(total, stop_after or total)
    with run.training(model), track(total=last, label=label) as bar:
        bar.update(start)
        for step, indices in _steps(rows, batches, seed=seed, first=start, last=last):
            generator = np.random.default_rng([seed, step, run.accelerator.process_index])
            torch.manual_seed(int(generator.integers(2**62)))  # dropout follows from the step, not from the past
            draw = partial(_draw, columns, generator=generator, device=run.accelerator.device)
            losses.append(run.step(objective, run.parts(indices, accumulate), draw, number=step))
            bar.update(1)
            taken = time.perf_counter() - began
            if run.accelerator.is_main_process and saved.due(len(losses), taken, last=last):
                saved.save(run.changing(), run.optimizer, run.scheduler, losses, taken)
    write_curve(losses, label=label, settings=settings)
    count = sum(parameter.numel() for parameter in run.trained.values())
    return Fit(tuple(losses), time.perf_counter() - began, start, count, settings)


@dataclass
class _Run:
    """Model, optimiser and schedule, prepared for this machine."""

    accelerator: Accelerator
    wrapped: nn.Module
    trained: dict[str, nn.Parameter]
    optimizer: Any
    scheduler: Any
    clip_norm: float

    @classmethod
    def prepare(cls, model: nn.Module, settings: dict[str, Any], total: int) -> _Run:
        from transformers import get_cosine_schedule_with_warmup

        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not trained:
            raise ModelError.of("fit", "no parameter of the model is trained", "unfreeze one, or add an adapter")
        device = next(iter(trained.values())).device
        accelerator = _accelerator(settings["precision"], device)
        groups = [
            {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": settings["weight_decay"]},
            {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=settings["lr"], betas=(0.9, settings["beta2"])
        )
        # The schedule counts optimiser steps, so accelerate, which would advance it once per process, is not asked.
        scheduler = get_cosine_schedule_with_warmup(optimizer, max(1, round(settings["warmup"] * total)), total)
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        return cls(accelerator, wrapped, trained, optimizer, scheduler, settings["clip_norm"])

    @contextmanager
    def training(self, model: nn.Module) -> Iterator[None]:
        """Put the model into training mode, and leave it in evaluation mode, as it was before accelerate wrapped it.

        Every step seeds torch; the fork gives the caller's random state back.
        """
        device = self.accelerator.device
        model.train()
        try:
            # The CPU's state is always forked.
            with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
                yield
        finally:
            self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
            model.eval()

    def changing(self) -> dict[str, Tensor]:
        """Return what training changes: trained parameters, and buffers such as a batch norm's running means."""
        model = self.accelerator.unwrap_model(self.wrapped)
        return {**self.trained, **dict(model.named_buffers())}

    def parts(self, indices: Indices, count: int) -> list[Indices]:
        """Return this process's rows of a batch, in parts; all processes get equally many, as gathering losses need."""
        world = self.accelerator.num_processes
        share = indices[: len(indices) // world * world][self.accelerator.process_index :: world]
        return [part for part in np.array_split(share, count) if len(part)]

    def step(
        self, objective: Objective, parts: list[Indices], draw: Callable[[Indices], list[Any]], *, number: int
    ) -> float:
        """Take a step on the mean over all parts of all processes, and return it."""
        self.optimizer.zero_grad()
        losses, weights = [], []
        for place, part in enumerate(parts):
            batch = draw(part)
            weights.append(objective.count(*batch) if hasattr(objective, "count") else len(part))
            alone = place < len(parts) - 1  # processes talk once a step
            with self.accelerator.no_sync(self.wrapped) if alone else nullcontext():
                with self.accelerator.autocast():
                    loss = objective(self.wrapped, *batch)
                # What all weigh together is known at the end; near 1 here, for float16's narrow range.
                self.accelerator.backward(loss * (weights[-1] / len(parts[0])))
            losses.append(loss.detach())
        total = float(self._summed(torch.tensor(float(sum(weights)))))
        shares = [loss * (weight / total) for loss, weight in zip(losses, weights, strict=True)]
        # Over all processes, so that every one of them reports, and judges, the loss of the whole batch.
        value = float(self._summed(torch.stack(shares).sum()))
        if not np.isfinite(value):
            raise ModelError.of("fit", f"the loss is {value} at step {number}", "lower lr, or use precision='no'")
        self._scale(len(parts[0]) * self.accelerator.num_processes / total)
        self.accelerator.clip_grad_norm_(list(self.trained.values()), self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        return value

    def _summed(self, value: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(value.to(self.accelerator.device), reduction="sum")
        return summed

    def _scale(self, factor: float) -> None:
        """Multiply the gradients, which processes have averaged."""
        if factor != 1:
            for parameter in self.trained.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)


def _draw(columns: Sequence[Column], indices: Indices, *, generator: np.random.Generator, device: Any) -> list[Any]:
    return [column.draw(indices, generator).to(device) for column in columns]


def _accelerator(precision: str, device: torch.device) -> Accelerator:
    """Return an Accelerator for this precision and device.

    accelerate keeps one state in a process, which the first run makes. A second run with another precision raised
    "restart your runtime", and one on another device was moved to the first one's.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState, is_initialized

    there = PartialState() if PartialState._shared_state else None
    if there is not None and there.num_processes == 1:
        other = is_initialized() and AcceleratorState().mixed_precision != precision
        if other or there.device.type != device.type:
            AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def _steps(rows: int, batches: int, *, seed: int, first: int, last: int) -> Iterator[tuple[int, Indices]]:
    order: list[Indices] = []
    for step in range(first, last):
        epoch, place = divmod(step, batches)
        if not order or place == 0:
            order = np.array_split(np.random.default_rng([seed, epoch]).permutation(rows), batches)
        yield step, order[place]

"""How fast copies read and write: all of them in turn within each round, so that ratios are of one moment."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from kit.errors import DataError
from kit.models.halves import cache_name
from kit.quantization.sizes import MB, disk_bytes
from kit.result import Measurement

FOREIGN = 0.15  # share of the machine that others may use before a round says little
_READ_MB = 256


class Runner(Protocol):
    """A language model that reads a prompt and goes on token by token."""

    def start(self, ids: Sequence[int]) -> int:
        """Read a prompt and return the likeliest next token."""

    def go_on(self, token: int) -> int:
        """Read one more token and return the likeliest next one."""


class TorchRunner:
    """A language model of transformers, with its cache.

    Args:
        language: The model.
    """

    def __init__(self, language: Any) -> None:
        self.language, self.past = language.eval(), DynamicCache()
        self.cache = cache_name(language)

    @torch.inference_mode()
    def start(self, ids: Sequence[int]) -> int:
        """Read a prompt and return the likeliest next token."""
        self.past = DynamicCache()
        return self._read(list(ids))

    @torch.inference_mode()
    def go_on(self, token: int) -> int:
        """Read one more token and return the likeliest next one."""
        return self._read([token])

    def _read(self, ids: list[int]) -> int:
        given = torch.tensor([ids], device=self.language.device)
        out = self.language(input_ids=given, use_cache=True, logits_to_keep=1, **{self.cache: self.past})
        return int(out.logits[0, -1].argmax())


@dataclass(frozen=True)
class Timing:
    """One copy, one prompt length, one round.

    Args:
        name: The copy.
        tokens: Tokens of the prompt.
        first_s: Seconds to the first token.
        step_s: Median seconds for each token after it.
        foreign: Share of the machine that other processes used meanwhile.
        read: Bytes a second that the machine read from memory, the mean of just before and just after.
    """

    name: str
    tokens: int
    first_s: float
    step_s: float
    foreign: float
    read: float = float("nan")


def race(
    runners: Mapping[str, Runner],
    *,
    lengths: Sequence[int] = (64, 256, 512),
    rounds: int = 5,
    new_tokens: int = 16,
    vocabulary: int = 1000,
    seed: int = 0,
    read: Callable[[], float] | None = None,
) -> list[Timing]:
    """Time copies against each other: in each round every copy reads the same prompt, in an order drawn anew.

    Args:
        runners: The copies by name.
        lengths: Tokens of the prompts.
        rounds: How often; one more round before them is not counted.
        new_tokens: Tokens written after each prompt.
        vocabulary: Prompts are drawn from the first so many tokens.
        seed: Of prompts and orders.
        read: Returns bytes a second read from memory: ``bandwidth``, measured anew around each copy's turn, since what
            a shared machine's memory gives changes from one second to the next.
    """
    draw, found = random.Random(seed), []  # noqa: S311 - no secret
    for number in range(-1, rounds):
        for tokens in lengths:
            ids = [draw.randrange(vocabulary) for _ in range(tokens)]
            before = (read or bandwidth)()
            for name in draw.sample(list(runners), len(runners)):
                timing = _timed(name, runners[name], ids, new_tokens)
                after = (read or bandwidth)()
                found += [replace(timing, read=(before + after) / 2)] if number >= 0 else []
                before = after
    return found


def speeds(timings: Sequence[Timing], reference: str) -> dict[str, dict[str, Measurement]]:
    """Return tokens a second and ratios to a reference, by copy and by what was measured.

    Rounds in which others used more than ``FOREIGN`` of the machine are left out where a quieter one is there.

    Args:
        timings: From ``race``.
        reference: The copy that ratios are against.

    Returns:
        For each copy ``prefill_64``, ``decode_64``, ``first_token_64`` and the like, and their ratios
        ``prefill_ratio_64``, ``decode_ratio_64``: medians over rounds, with the least and the most seen; and in
        ``bytes_a_token_64`` what the machine could have read from memory in the time that a token took.

    Raises:
        DataError: no such reference.
    """
    names = list(dict.fromkeys(one.name for one in timings))
    if reference not in names:
        raise DataError.of("speeds", f"{reference!r} was not timed", "time the reference along with the copies")
    found: dict[str, dict[str, Measurement]] = {name: {} for name in names}
    for tokens in dict.fromkeys(one.tokens for one in timings):
        by_name = {name: [one for one in timings if (one.name, one.tokens) == (name, tokens)] for name in names}
        rounds = list(zip(*by_name.values(), strict=True))
        quiet = [each for each in rounds if max(one.foreign for one in each) <= FOREIGN]
        kept = quiet or rounds
        note = "" if quiet else f", others used up to {max(one.foreign for each in rounds for one in each):.0%}"
        method = f"median of {len(kept)} interleaved rounds{note}"
        for place, name in enumerate(names):
            own, base = [each[place] for each in kept], [each[names.index(reference)] for each in kept]
            values = {
                "prefill": ([tokens / one.first_s for one in own], "tokens/s"),
                "decode": ([1 / one.step_s for one in own], "tokens/s"),
                "first_token": ([one.first_s for one in own], "s"),
                "prefill_ratio": ([b.first_s / a.first_s for a, b in zip(own, base, strict=True)], "x"),
                "decode_ratio": ([b.step_s / a.step_s for a, b in zip(own, base, strict=True)], "x"),
                "bytes_a_token": ([one.read * one.step_s for one in own], "bytes"),
            }
            for what, (numbers, unit) in values.items():
                better = "higher" if unit in {"tokens/s", "x"} else "lower"
                found[name][f"{what}_{tokens}"] = Measurement(
                    statistics.median(numbers), unit, len(numbers), min(numbers), max(numbers), level=None,
                    method=method, better=better,
                )  # fmt: skip
    return found


def bandwidth() -> float:
    """Return how many bytes a second this machine reads from memory now, the best of three passes over 256 MB."""
    block = _block()
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        block.sum()
        best = min(best, time.perf_counter() - begin)
    return block.numel() * 4 / best


@cache
def _block() -> torch.Tensor:
    return torch.ones(_READ_MB * 250_000)


def peak_rss_mb(bundle: Path) -> float:
    """Return the most memory, in megabytes, that a fresh process takes to open a bundle or export and ask it once."""
    code = (
        "import pathlib, re, resource, sys\n"
        "from kit.quantization.served import open_export\n"
        "from kit.models.chat import answer\n"
        "model = open_export(sys.argv[1])\n"
        "answer(model, [None], ['What is red?'], max_new_tokens=4)\n"
        # A child's ru_maxrss begins at what its parent held, so the kernel is asked for this program's own peak.
        "status = pathlib.Path('/proc/self/status')\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)\n"
        "if status.exists():\n"
        "    peak = int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1]) * 1024\n"
        "print(peak)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    if done.returncode:
        raise DataError.of(str(bundle), f"cannot be measured: {done.stderr.strip()[-300:]}", "open it by hand")
    return float(done.stdout.split()[-1]) / 1e6


def folder_weight(folder: Path, *, peak: bool = True) -> dict[str, Measurement]:
    """Return what a bundle or an export takes: ``disk_mb``, with ``peak`` also ``peak_mb``, of a graph its ``mb``.

    Args:
        folder: Where it is.
        peak: Whether a fresh process opens it, see ``peak_rss_mb``.
    """
    found = {"disk_mb": Measurement(disk_bytes(folder) / MB, "MB", 1, better="lower")}
    if peak:
        method = "a fresh process that opens it and asks it once"
        found["peak_mb"] = Measurement(peak_rss_mb(folder), "MB", 1, method=method, better="lower")
    graphs = sum(file.stat().st_size for file in folder.glob("*.onnx.data"))
    return found | ({"mb": Measurement(graphs / MB, "MB", 1, better="lower")} if graphs else {})


def _timed(name: str, runner: Runner, ids: Sequence[int], new_tokens: int) -> Timing:
    before, own = _machine(), time.process_time()
    begin = time.perf_counter()
    token = runner.start(ids)
    first = time.perf_counter() - begin
    steps = []
    for _ in range(new_tokens):
        now = time.perf_counter()
        token = runner.go_on(token)
        steps.append(time.perf_counter() - now)
    wall = time.perf_counter() - begin
    others = max(0.0, _machine() - before - (time.process_time() - own))
    return Timing(name, len(ids), first, statistics.median(steps), others / (wall * (os.cpu_count() or 1)))


def _machine() -> float:
    """Return the seconds that all processes have used so far on all cores."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))

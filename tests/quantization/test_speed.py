"""Timing: interleaved, in ratios of one moment, and told when others were busy."""

import time

import pytest
import torch

from kit.errors import DataError
from kit.quantization.copies import merged
from kit.quantization.speed import Timing, TorchRunner, bandwidth, peak_rss_mb, race, speeds


class Sleeper:
    """A runner of known speed, on a clock that only it moves: a busy machine changes nothing."""

    def __init__(self, log, clock, name, seconds):
        self.log, self.clock, self.name, self.seconds = log, clock, name, seconds

    def start(self, ids):
        self.log.append((self.name, len(ids)))
        self.clock[0] += self.seconds * 10
        return 1

    def go_on(self, token):
        self.clock[0] += self.seconds
        return token


def test_every_copy_runs_in_every_round_and_ratios_are_of_one_moment(monkeypatch):
    log, clock = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    runners = {"slow": Sleeper(log, clock, "slow", 0.01), "quick": Sleeper(log, clock, "quick", 0.002)}
    timings = race(runners, lengths=(8, 16), rounds=2, new_tokens=3, read=lambda: 1e6)
    assert len(timings) == 2 * 2 * 2
    assert len(log) == 3 * 2 * 2  # one round before is not counted
    assert all({log[place][0], log[place + 1][0]} == {"slow", "quick"} for place in range(0, len(log), 2))
    found = speeds(timings, "slow")
    assert found["slow"]["decode_ratio_8"].value == 1
    assert found["quick"]["decode_ratio_8"].value == pytest.approx(5)
    assert found["quick"]["decode_16"].value == pytest.approx(500)
    assert found["quick"]["prefill_ratio_16"].value == pytest.approx(5)
    assert found["slow"]["first_token_16"].value == pytest.approx(0.1)
    assert found["slow"]["first_token_16"].better == "lower"
    assert found["quick"]["bytes_a_token_8"].value == pytest.approx(2000)


def test_memory_is_timed_before_and_after_each_turn():
    given = iter([100.0, 200.0, 400.0, 100.0, 300.0, 500.0])
    runners = {"one": Sleeper([], [0.0], "one", 0.01), "two": Sleeper([], [0.0], "two", 0.01)}
    timings = race(runners, lengths=(8,), rounds=1, new_tokens=1, read=lambda: next(given))
    assert [one.read for one in timings] == [200.0, 400.0]


def test_rounds_beside_busy_processes_are_left_out_where_there_is_a_quiet_one():
    quiet = [Timing("a", 8, 1.0, 0.1, 0.0), Timing("b", 8, 0.5, 0.05, 0.1)]
    busy = [Timing("a", 8, 9.0, 0.9, 0.0), Timing("b", 8, 0.5, 0.05, 0.9)]
    found = speeds([*busy, *quiet], "a")["b"]["prefill_ratio_8"]
    assert (found.value, found.n) == (2.0, 1)
    assert "others" not in found.method
    told = speeds(busy, "a")["b"]["prefill_ratio_8"]
    assert (told.value, told.method) == (18.0, "median of 1 interleaved rounds, others used up to 90%")
    with pytest.raises(DataError, match="'c' was not timed"):
        speeds(busy, "c")


def test_a_torch_runner_writes_what_generate_writes(bundle):
    language = merged(bundle).language
    runner, ids = TorchRunner(language), list(range(5, 25))
    tokens = [runner.start(ids)]
    for _ in range(5):
        tokens.append(runner.go_on(tokens[-1]))
    expected = language.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert tokens == expected[0, len(ids) :].tolist()
    assert runner.start(ids) == tokens[0]


def test_machine_figures(bundle):
    assert 1e8 < bandwidth() < 1e12
    held = torch.ones(300_000_000)  # 1.2 GB of this process's own, which is none of the other one's
    assert 100 < peak_rss_mb(bundle.folder) < 1200 <= held.numel() * 4e-6
    with pytest.raises(DataError, match="cannot be measured"):
        peak_rss_mb(bundle.folder / "nowhere")

"""A run that was stopped, or killed, ends with the numbers of one that was not; no other run picks it up."""

import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from dual_encoders import fresh
from small_net import SETUP, Net, Stopping, X, Y, mse
from torch import nn
from torch.nn import functional as F

from kit.errors import ModelError
from kit.models.cut import DualEncoderTail
from kit.training.fit import fit
from kit.training.objectives import Contrastive


def same_state(a, b):
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


@pytest.mark.parametrize("stop", [1, 10, 23])
def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path, stop):
    asked = {"epochs": 8, "batch_size": 16, "lr": 0.01, "seed": 4, "every": 5}
    straight, resumed = Net(), Net()
    whole = fit(straight, Stopping(10**9), [X, Y], **asked)
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, Stopping(stop), [X, Y], checkpoint=tmp_path, **asked)
    assert not resumed.training
    resumed = Net()  # a new kernel
    rest = fit(resumed, Stopping(10**9), [X, Y], checkpoint=tmp_path, **asked)
    assert rest.resumed_at == stop // 5 * 5
    assert rest.losses == whole.losses
    assert len(whole.losses) == 24
    assert same_state(straight, resumed)


def test_a_finished_run_returns_its_product(tmp_path):
    asked = {"steps": 12, "batch_size": 16, "checkpoint": tmp_path}
    first, again = Net(), Net()
    one, two = fit(first, mse, [X, Y], **asked), fit(again, mse, [X, Y], **asked)
    assert two.resumed_at == 12
    assert one.losses == two.losses
    assert same_state(first, again)


def test_stopping_early_keeps_the_whole_runs_schedule(tmp_path):
    straight, early = Net(), Net()
    whole = fit(straight, mse, [X, Y], steps=12, batch_size=16)
    part = fit(early, mse, [X, Y], steps=12, batch_size=16, stop_after=5, checkpoint=tmp_path)
    assert part.losses == whole.losses[:5]
    assert fit(Net(), mse, [X, Y], steps=12, batch_size=16, checkpoint=tmp_path).losses == whole.losses


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 2e-3}, {"seed": 1}, {"batch_size": 20}, {"weight_decay": 0.0}, {"warmup": 0.2}, {"clip_norm": 2.0},
        {"steps": 11}, {"precision": "bf16"}, {"y": Y + 1e-6}, {"x": X.double().float().flip(0)}, {"model": Net(1)},
        {"objective": lambda model, x, y: F.l1_loss(model(x), y)}, {"frozen": True},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_no_other_run_picks_up_the_checkpoint(tmp_path, change):
    def asked(**change):
        model, objective = change.pop("model", None) or Net(), change.pop("objective", mse)
        columns = [change.pop("x", X), change.pop("y", Y)]
        model.body[0].weight.requires_grad_(False)
        if change.pop("frozen", False):
            model.body[0].weight.data += 1e-3  # what is not trained is part of the run, too
        return fit(model, objective, columns, checkpoint=tmp_path, **{"steps": 10, "batch_size": 16, **change})

    first = asked()
    assert asked().resumed_at == 10
    other = asked(**change)
    assert other.resumed_at == 0
    assert other.losses != first.losses


@pytest.mark.parametrize("objective", [Contrastive("siglip")])
def test_another_objective_on_the_same_model_is_another_run(tmp_path, objective, tiny):
    class Tail(DualEncoderTail):
        def __init__(self, encoder):
            super().__init__(encoder)
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    columns = [torch.randn(16, 32, generator=torch.Generator().manual_seed(0)), torch.ones(16, 24).cumsum(0)]
    asked = {"steps": 3, "batch_size": 8, "checkpoint": tmp_path}
    fit(Tail(fresh(tiny)), Contrastive("clip"), columns, **asked)
    assert fit(Tail(fresh(tiny)), objective, columns, **asked).resumed_at == 0


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    fit(Net(), mse, [X, Y], steps=5, checkpoint=tmp_path)
    (file,) = tmp_path.glob("*.pt")
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"(?s)fit-.*cannot be read.*delete it to train from the start"):
        fit(Net(), mse, [X, Y], steps=5, checkpoint=tmp_path)


KILLED = SETUP + textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from kit.training.fit import fit

    left = [int(sys.argv[2])]

    def slow(model, x, y):
        if not left[0]:
            print("hanging", flush=True)
            time.sleep(600)
        left[0] -= 1
        return mse(model, x, y)

    model = Net()
    done = fit(model, slow, [X, Y], steps=40, batch_size=16, every=1, checkpoint=Path(sys.argv[1]))
    print(done.resumed_at, [loss.hex() for loss in done.losses], float(model.body[4].weight.sum()).hex(), sep="|")
""")


def test_killed_and_resumed_ends_with_the_same_numbers(tmp_path):
    def start(folder, steps):
        command = [sys.executable, "-c", KILLED, str(folder), str(steps)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = start(tmp_path / "killed", 7)
    model = Net()
    expected = fit(model, mse, [X, Y], steps=40, batch_size=16)
    assert killed.stdout.readline() == "hanging\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    found = start(tmp_path / "killed", -1).communicate(timeout=120)[0].splitlines()[-1].split("|")
    assert int(found[0]) == 7
    assert found[1] == str([loss.hex() for loss in expected.losses])
    assert found[2] == model.body[4].weight.sum().item().hex()


KILLED_ADAPTER = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
import torch
torch.set_num_threads(1)
from test_supervised import ROWS, adapted, trained
from tiny_models import load_tiny
from kit.training.fit import fit
from kit.training.recompute import recompute_activations
from kit.training.supervised import AnswerLoss, Encoded

@dataclass(frozen=True)
class Loud(AnswerLoss):
    def __call__(self, model, batch):
        print("part", flush=True)
        time.sleep(PAUSE)
        return super().__call__(model, batch)

folder, checkpoint, PAUSE = Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
model = load_tiny(folder)
adapter = adapted(model, lora_dropout=0.3)
recompute_activations(adapter)
column = Encoded.of(model, ROWS, picture_required=False)
done = fit(adapter, Loud(), [column], steps=30, batch_size=4, accumulate=2, lr=0.01, every=1, checkpoint=checkpoint)
numbers = [loss.hex() for loss in done.losses] + [float(p.double().sum()).hex() for p in trained(adapter).values()]
print(done.resumed_at, *numbers)
"""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_an_adapter_killed_at_a_random_step_ends_with_the_same_bits(tmp_path, tiny_folders, seed):
    folder, paths = tiny_folders("smolvlm"), ":".join(sys.path)

    def start(name, pause):
        command = [sys.executable, "-c", KILLED_ADAPTER, paths, str(folder), str(tmp_path / name), str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    expected = start("whole", 0).communicate(timeout=300)[0].splitlines()[-1].split()
    rng = random.Random(seed)
    parts = rng.randrange(3, 50)  # of 60: two a step
    killed = start("killed", 0.02)
    for _ in range(parts):
        assert killed.stdout.readline() == "part\n"
    time.sleep(rng.random() * 0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    found = start("killed", 0).communicate(timeout=300)[0].splitlines()[-1].split()
    assert (parts - 1) // 2 - 1 <= int(found[0]) < 30, "it went on from where it was killed"
    assert found[1:] == expected[1:]

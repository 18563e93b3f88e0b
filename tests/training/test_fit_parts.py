"""A batch in parts, and over processes, is the batch: the same losses, the same gradients."""

import os
import subprocess
import sys

import pytest
import torch
from small_net import X, Y
from torch import nn
from torch.nn import functional as F

from kit.errors import ModelError
from kit.training.fit import fit


class Plain(nn.Module):
    """Without dropout and batch norm, whose numbers a batch in parts has of each part."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.body(x)


def mse(model, x, y):
    return F.mse_loss(model(x), y)


class Masked:
    """A mean over some of a row's numbers, as over the tokens of its answer."""

    def __call__(self, model, x, y):
        return ((model(x) - y) ** 2)[self.mask(x)].mean()

    def count(self, x, y):
        return int(self.mask(x).sum())

    @staticmethod
    def mask(x):
        return torch.arange(3) <= (x[:, :1] > 0).long() * 2  # one number of some rows, three of others


def run(objective=mse, **asked):
    model = Plain()
    done = fit(model, objective, [X, Y], **{"steps": 6, "batch_size": 17, "lr": 0.05, "clip_norm": 0.3, **asked})
    return done.losses, model


@pytest.mark.parametrize("objective", [mse, Masked()], ids=["rows", "counted"])
@pytest.mark.parametrize("parts", [2, 3, 5, 17])
def test_parts_give_the_numbers_of_the_whole_batch(objective, parts):
    (losses, whole), (found, model) = run(objective), run(objective, accumulate=parts)
    assert found == pytest.approx(losses, rel=1e-5)
    for mine, other in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
        assert torch.allclose(mine.grad, other.grad, atol=1e-6)


def test_counts_are_what_parts_weigh():
    def uncounted(model, x, y):
        return Masked()(model, x, y)

    assert run(uncounted)[0] == pytest.approx(run(Masked())[0], rel=1e-6), "in one part nothing is weighed"
    assert run(uncounted, accumulate=4)[0] != pytest.approx(run(uncounted)[0], rel=1e-3)


def test_each_part_is_drawn_alone():
    seen = []

    def watching(model, x, y):
        seen.append(len(x))
        return mse(model, x, y)

    run(watching, accumulate=4, steps=3)
    assert len(seen) == 12
    assert max(seen) == 5, "17 rows in four parts"


def test_parts_without_rows_are_left_out():
    model = Plain()
    fit(model, mse, [X[:3], Y[:3]], steps=2, batch_size=8, accumulate=8)


def test_more_parts_than_rows_are_a_fault():
    with pytest.raises(ModelError, match=r"fit: accumulate: is 18, and a batch has 17 rows"):
        run(accumulate=18)


def test_another_number_of_parts_is_another_run(tmp_path):
    run(checkpoint=tmp_path)
    run(checkpoint=tmp_path, accumulate=2)
    assert len([*tmp_path.glob("*.pt")]) == 2


DISTRIBUTED = """
import sys, torch
from pathlib import Path
from torch import nn
from torch.nn import functional as F
from accelerate import PartialState
from kit.models.cut import Pairs
from kit.training.fit import fit
from kit.training.objectives import Contrastive

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text, self.scale = nn.Linear(6, 4), nn.Linear(5, 4), nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0)) if sys.argv[2] == "siglip" else None

    def forward(self, image, text):
        unit = [F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)]
        return Pairs(*unit, self.scale.exp(), self.bias)

generator = torch.Generator().manual_seed(0)
columns = [torch.randn(48, 6, generator=generator), torch.randn(48, 5, generator=generator)]
model = Two()
done = fit(model, Contrastive(sys.argv[2]), columns, epochs=6, batch_size=16, lr=0.02)
Path(f"{sys.argv[1]}.{PartialState().process_index}").write_text(
    f"{PartialState().num_processes} " + " ".join(map(str, [*done.losses, model.image.weight.sum().item()])))
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_two_processes_train_as_one_does_with_the_same_batch(tmp_path, kind):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    subprocess.run([sys.executable, str(script), str(tmp_path / "one"), kind], env=env, check=True, timeout=120)
    subprocess.run([*launch, str(script), str(tmp_path / "two"), kind], env=env, check=True, timeout=120)
    one, *two = (
        [float(word) for word in (tmp_path / name).read_text().split()] for name in ("one.0", "two.0", "two.1")
    )
    assert one[0] == 1
    for process in two:
        assert process[0] == 2
        assert process[1:] == pytest.approx(one[1:], rel=1e-4)


COUNTED = """
import sys, torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[2].split(":")
from pathlib import Path
from accelerate import PartialState
from test_fit_parts import Masked, Plain, X, Y
from kit.training.fit import fit

model = Plain()
done = fit(model, Masked(), [X[:48], Y[:48]], steps=6, batch_size=16, accumulate=int(sys.argv[3]), lr=0.05)
numbers = [*done.losses, *(value for p in model.parameters() for value in p.detach().flatten().tolist())]
Path(f"{sys.argv[1]}.{PartialState().process_index}").write_text(" ".join(map(str, numbers)))
"""


@pytest.mark.soak
def test_two_processes_in_parts_train_as_one_does(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(COUNTED)
    env, paths = {**os.environ, "OMP_NUM_THREADS": "1"}, ":".join(sys.path)
    # --multi_gpu is accelerate's word for one machine and several processes; without GPUs they talk by gloo.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
              "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]  # fmt: skip
    subprocess.run([sys.executable, str(script), str(tmp_path / "one"), paths, "1"], env=env, check=True, timeout=120)
    subprocess.run([*launch, str(script), str(tmp_path / "two"), paths, "3"], env=env, check=True, timeout=120)
    one, *two = (
        [float(word) for word in (tmp_path / name).read_text().split()] for name in ("one.0", "two.0", "two.1")
    )
    assert two[0] == pytest.approx(one, abs=1e-5)
    assert two[1] == two[0]

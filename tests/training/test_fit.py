"""The loop: resumable to the same numbers, told apart from every other run, and equal to training uncut."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from dual_encoders import fresh, noise_pictures
from torch import nn
from torch.nn import functional as F

from kit.errors import DataError, ModelError
from kit.models.activations import ActivationStore
from kit.models.cut import DualEncoderTail, WholeDualEncoder
from kit.models.encode import PrefixEncoder
from kit.training.columns import Fixed, OneOf
from kit.training.fit import fit
from kit.training.objectives import Contrastive

SETUP = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.body(x)

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(50, 6, generator=generator), torch.randn(50, 3, generator=generator)

def mse(model, x, y):
    return F.mse_loss(model(x), y)
"""
scope = {"__name__": __name__}
exec(SETUP, scope)  # the same text runs in the processes below
Net, X, Y, mse = scope["Net"], scope["X"], scope["Y"], scope["mse"]


def same_state(a, b):
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def failing(at):
    calls = []

    def objective(model, x, y):
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return mse(model, x, y)

    return objective


class Stopping:
    """An objective that is the same run whenever it stops: only what it does counts, and not its counter."""

    def __init__(self, at):
        self.left = [at]

    def __call__(self, model, x, y):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return mse(model, x, y)


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

    def slow(model, x, y):
        time.sleep(PAUSE)
        return mse(model, x, y)

    PAUSE = float(sys.argv[2])
    model = Net()
    done = fit(model, slow, [X, Y], steps=40, batch_size=16, every=1, checkpoint=Path(sys.argv[1]))
    print(done.resumed_at, [loss.hex() for loss in done.losses], float(model.body[4].weight.sum()).hex(), sep="|")
""")


def test_killed_and_resumed_ends_with_the_same_numbers(tmp_path):
    def start(folder, pause):
        command = [sys.executable, "-c", KILLED, str(folder), str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = start(tmp_path / "killed", 0.1)
    model = Net()
    expected = fit(model, mse, [X, Y], steps=40, batch_size=16)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "killed").glob("*.pt")):
        time.sleep(0.05)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    found = start(tmp_path / "killed", 0).communicate(timeout=60)[0].splitlines()[-1].split("|")
    assert 0 < int(found[0]) < 40
    assert found[1] == str([loss.hex() for loss in expected.losses])
    assert found[2] == model.body[4].weight.sum().item().hex()


@pytest.mark.parametrize("name", ["tiny", pytest.param("stitched", marks=pytest.mark.weights)])
def test_training_the_tail_from_the_store_is_training_the_uncut_model(name, request, tmp_path):
    encoder = request.getfixturevalue(name)
    n = 48 if name == "tiny" else 6
    pictures, texts = noise_pictures(n), [f"picture number {number}" for number in range(n)]
    asked = {"epochs": 3, "batch_size": n // 3, "lr": 3e-3, "seed": 2}
    cut, uncut = fresh(encoder), fresh(encoder)
    if name == "tiny":  # the stitch has dropout before its projection; a native CLIP has no place for it
        for one in (cut, uncut):
            one.clip.visual.proj, one.clip.visual.head = None, nn.Sequential(nn.Dropout(0.3), nn.Linear(32, 12))
            one.clip.visual.head.load_state_dict(
                {"1.weight": encoder.clip.visual.proj.detach().T, "1.bias": torch.zeros(12)}
            )
    prefix = PrefixEncoder(cut, ActivationStore(tmp_path, limit_gib=1))
    tail = DualEncoderTail(cut)
    stored = fit(tail, Contrastive(), [prefix.images(pictures), prefix.texts(texts)], **asked)
    pixels = torch.stack([uncut.preprocess(picture.open()) for picture in pictures])
    whole = WholeDualEncoder(uncut)
    computed = fit(whole, Contrastive(), [pixels, uncut.tokenize(texts)], **asked)
    assert len(stored.losses) == 9
    assert stored.losses == pytest.approx(computed.losses, rel=1e-4)
    assert stored.trained == computed.trained
    moved = 0.0
    for (label, mine), theirs in zip(tail.state_dict().items(), whole.tail.state_dict().values(), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-4), label
    for after, before in zip(tail.parameters(), DualEncoderTail(encoder).parameters(), strict=False):
        if after.shape == before.shape:
            moved += float((after - before).detach().abs().max())
    assert moved > 2e-3, "something was learned"


def test_a_by_hand_loop_gives_the_same_numbers():
    # AdamW without decay on vectors, linear warm-up, cosine decay, global norm: each written out.
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    other = nn.Linear(6, 3)
    other.load_state_dict(model.state_dict())
    found = fit(model, mse, [X, Y], steps=10, batch_size=50, lr=0.05, weight_decay=0.2, warmup=0.2, clip_norm=0.1)
    optimizer = torch.optim.AdamW(
        [{"params": [other.weight], "weight_decay": 0.2}, {"params": [other.bias], "weight_decay": 0.0}]
    )
    losses = []
    for step in range(10):
        share = step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * share
        loss = F.mse_loss(other(X), Y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in other.parameters()))
        for parameter in other.parameters():
            parameter.grad.mul_(min(1.0, 0.1 / norm))
        optimizer.step()
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(model.weight, other.weight, atol=1e-5)


def test_each_epoch_uses_every_row_once_in_batches_of_about_one_size():
    seen = []

    def watching(model, x, y):
        seen.append(x[:, 0].tolist())
        return mse(model, x, y)

    fit(Net(), watching, [X, Y], epochs=2, batch_size=12)
    sizes = {len(batch) for batch in seen}
    half = len(seen) // 2
    assert max(sizes) - min(sizes) <= 1
    for epoch in (seen[:half], seen[half:]):
        assert sorted(value for batch in epoch for value in batch) == sorted(X[:, 0].tolist())
    assert seen[0] != seen[half], "another order in each epoch"


def test_rows_and_chance_are_drawn_alike_whatever_the_past():
    column = OneOf((Fixed(X), Fixed(-X)))
    one, two = fit(Net(), mse, [column, Y], steps=6), fit(Net(), mse, [column, Y], steps=6)
    torch.rand(3)
    assert one.losses == two.losses == fit(Net(), mse, [column, Y], steps=6).losses
    assert one.losses != fit(Net(), mse, [column, Y], steps=6, seed=1).losses


def test_frozen_parameters_stay_and_the_model_is_left_evaluating():
    model = Net()
    model.body[0].requires_grad_(False)
    before = model.body[0].weight.clone()
    done = fit(model, mse, [X, Y], steps=5)
    assert torch.equal(model.body[0].weight, before)
    assert done.trained == 16 * 2 + 16 * 3 + 3
    assert not model.training


@pytest.mark.parametrize("stopped", [False, True])
def test_the_callers_random_state_is_left_as_it_was(stopped):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Net().to(device)
    torch.manual_seed(5)
    expected = [torch.rand(3), torch.rand(3, device=device)]
    torch.manual_seed(5)
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            fit(model, failing(at=2), [X, Y], steps=4, batch_size=16)
    else:
        fit(model, mse, [X, Y], steps=4, batch_size=16)
    found = [torch.rand(3), torch.rand(3, device=device)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_one_precision_after_another_and_no_trace_of_it():
    model = Net()
    for precision in ("no", "bf16", "no"):
        fit(model, mse, [X, Y], steps=3, precision=precision)
        assert "forward" not in vars(model), "accelerate's wrapper is gone"
        assert model(X).dtype == torch.float32
        assert not hasattr(model, "_original_forward")


def test_all_setting_faults_at_once():
    with pytest.raises(ModelError) as caught:
        fit(Net(), mse, [X, Y], epochs=0, steps=2.5, batch_size="128", lr="3e-4", weight_decay=-1, warmup=1,
            clip_norm=math.nan, seed=-1, precision="int4", every=0, stop_after=0)  # fmt: skip
    text = str(caught.value)
    for name in ("epochs", "steps", "batch_size", "lr", "weight_decay", "warmup", "clip_norm", "seed", "precision",
                 "every", "stop_after"):  # fmt: skip
        assert f"fit: {name}: must be" in text
    assert "lr: must be a number above 0, got '3e-4'" in text
    assert "give exactly one" in text
    assert len(caught.value.faults) == 12


@pytest.mark.parametrize("asked", [{}, {"epochs": 1, "steps": 1}])
def test_epochs_or_steps(asked):
    with pytest.raises(ModelError, match="give exactly one"):
        fit(Net(), mse, [X, Y], **asked)


def test_nothing_to_train_and_nothing_to_train_on():
    with pytest.raises(ModelError, match=r"no parameter of the model is trained"):
        fit(Net().requires_grad_(False), mse, [X, Y], steps=1)
    with pytest.raises(DataError, match=r"different lengths: \[50, 49\]"):
        fit(Net(), mse, [X, Y[:-1]], steps=1)


def test_a_loss_that_is_no_number_stops_at_once(tmp_path):
    def bad(model, x, y):
        return mse(model, x, y) * (math.nan if len(calls := bad.calls) == 3 else calls.append(1) or 1)

    bad.calls = []
    with pytest.raises(ModelError, match="the loss is nan at step 3"):
        fit(Net(), bad, [X, Y], steps=9, checkpoint=tmp_path)
    assert not list(tmp_path.glob("*"))


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

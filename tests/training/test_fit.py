"""The loop: each of its parts written out by hand, equal to training uncut, and all faults at once."""

import math

import pytest
import torch
from dual_encoders import fresh, noise_pictures
from small_net import Net, X, Y, mse
from torch import nn
from torch.nn import functional as F

from kit.errors import DataError, ModelError
from kit.models.activations import ActivationStore
from kit.models.cut import DualEncoderTail, WholeDualEncoder
from kit.models.encode import PrefixEncoder
from kit.training.columns import Fixed, OneOf
from kit.training.fit import fit
from kit.training.objectives import Contrastive


def failing(at):
    calls = []

    def objective(model, x, y):
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return mse(model, x, y)

    return objective


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
            clip_norm=math.nan, seed=-1, precision="int4", every=0, stop_after=0, accumulate=0)  # fmt: skip
    text = str(caught.value)
    for name in ("epochs", "steps", "batch_size", "lr", "weight_decay", "warmup", "clip_norm", "seed", "precision",
                 "every", "stop_after", "accumulate"):  # fmt: skip
        assert f"fit: {name}: must be" in text
    assert "lr: must be a number above 0, got '3e-4'" in text
    assert "give exactly one" in text
    assert len(caught.value.faults) == 13


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

"""A checkpoint is whole, is its own run's, or is one clear error."""

import pytest
import torch
from torch import nn

from kit.errors import ModelError
from kit.training.checkpoint import Checkpoint


def parts(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return model, model.state_dict(), optimizer, scheduler


def flat(optimizer):
    return [value for state in optimizer.state_dict()["state"].values() for value in state.values()]


def test_everything_is_put_back(tmp_path):
    _, weights, optimizer, scheduler = parts(0)
    saved = Checkpoint.at(tmp_path / "new" / "folder", "k" * 64)
    saved.save(weights, optimizer, scheduler, [3.0, 2.5], 7.5)
    _, others, other_optimizer, other_scheduler = parts(1)
    reached = Checkpoint.at(tmp_path / "new" / "folder", "k" * 64).load(others, other_optimizer, other_scheduler)
    assert reached == ([3.0, 2.5], 7.5)
    assert all(torch.equal(others[name], weights[name]) for name in weights)
    assert "1.running_mean" in weights
    assert all(torch.equal(a, b) for a, b in zip(flat(optimizer), flat(other_optimizer), strict=True))
    assert scheduler.state_dict() == other_scheduler.state_dict()


def test_without_a_file_nothing_happens(tmp_path):
    _, weights, optimizer, scheduler = parts()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    assert Checkpoint.at(tmp_path, "k" * 64).load(weights, optimizer, scheduler).losses == []
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_an_older_checkpoint_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    _, weights, optimizer, scheduler = parts()
    saved = Checkpoint.at(tmp_path, "k" * 64)
    saved.save(weights, optimizer, scheduler, [1.0])

    def half(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(ModelError, match="No space left"):
        saved.save(weights, optimizer, scheduler, [1.0, 0.5])
    assert saved.load(weights, optimizer, scheduler).losses == [1.0]


def test_another_runs_file_is_refused(tmp_path):
    _, weights, optimizer, scheduler = parts()
    saved = Checkpoint.at(tmp_path, "k" * 64)
    saved.save(weights, optimizer, scheduler, [1.0])
    with pytest.raises(ModelError, match=r"(?s)belongs to another run.*delete it to train from the start"):
        Checkpoint(saved.path, "other").load(weights, optimizer, scheduler)


@pytest.mark.parametrize("content", [b"", b"no archive", "cut", "list"])
def test_a_damaged_file_is_one_clear_error(tmp_path, content):
    _, weights, optimizer, scheduler = parts()
    saved = Checkpoint.at(tmp_path, "k" * 64)
    saved.save(weights, optimizer, scheduler, [1.0])
    if content == "cut":
        saved.path.write_bytes(saved.path.read_bytes()[:-200])
    elif content == "list":
        torch.save({"weights": {}}, saved.path)
    else:
        saved.path.write_bytes(content)
    with pytest.raises(ModelError, match=r"(?s)cannot be read: .+Fix: delete it to train from the start"):
        saved.load(weights, optimizer, scheduler)


def test_a_flipped_bit_is_noticed_or_means_nothing(tmp_path):
    _, weights, optimizer, scheduler = parts()
    saved = Checkpoint.at(tmp_path, "k" * 64)
    saved.save(weights, optimizer, scheduler, [1.0])
    good = saved.path.read_bytes()
    expected, state = (
        {name: tensor.clone() for name, tensor in weights.items()},
        [value.clone() for value in flat(optimizer)],
    )
    noticed = 0
    for place in range(0, len(good), 41):
        saved.path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            assert saved.load(weights, optimizer, scheduler).losses == [1.0]
            assert all(torch.equal(weights[name], expected[name]) for name in weights)
            assert all(torch.equal(a, b) for a, b in zip(flat(optimizer), state, strict=True))
        except ModelError:
            noticed += 1
    assert noticed > 20  # the rest is padding between the archive's files

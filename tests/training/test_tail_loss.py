"""Training a cut language model: the loss falls, parts of a batch are the batch, and a killed run is no other run."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch
from torch.nn import functional as F

from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.data.rows import Conversation, Message, Question
from kit.models.activations import ActivationStore
from kit.models.chat import answer
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.packed_answers import PackedAnswers
from kit.training.fit import fit
from kit.training.tail_loss import TailLoss

PICTURES = noise_pictures(6)
COLOURS = ["red", "blue", "green", "yellow", "teal", "grey"]
ROWS = [
    *(Question(f"c{n}", picture, "What colour?", COLOURS[n]) for n, picture in enumerate(PICTURES)),
    *(Question(f"t{n}", one, "Is there a triangle?", ["no", "yes"][n % 2]) for n, one in enumerate(PICTURES)),
    Conversation("x", None, (Message("user", "Say yes"), Message("assistant", "yes, it is"))),
]  # fmt: skip
ASKED = {"steps": 40, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0}
WAYS = {
    "prefix": {"entry_layer": 0},
    "mid-layer": {"entry_layer": 2},
    "dropout": {"entry_layer": 2},
    "prompts": {"prompted": True},
}


def made(vision, language, store, way="mid-layer", *, dtype=torch.float32, **lora):
    """A cut model with adapters on it, its tail, and its column."""
    model = tiny_stitch(vision, language, **WAYS[way])
    if way == "prompts":
        add_llama_adapter(model.language, layers=3, rank=8)
        model.projector.requires_grad_(True)
    else:
        adapt_language(model, **({"rank": 4, "dropout": 0.3 if way == "dropout" else 0.0} | lora))
    cut = LanguageCut(model, ActivationStore(store))
    packs = cut.packs(ROWS)
    model.projector.calibrate(packs.features.all())
    return cut, LanguageTail(cut, dtype=dtype), packs


def weights(tail):
    return {name: tensor.clone() for name, tensor in tail.state_dict().items()}


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_loss_is_the_mean_cross_entropy_of_answer_tokens(tiny_vision, tiny_language, tmp_path):
    _, tail, packs = made(tiny_vision, tiny_language, tmp_path)
    batch = packs.draw(np.arange(len(packs)))
    expected = F.cross_entropy(tail(batch) @ tail.head.T, batch.labels)
    torch.testing.assert_close(TailLoss()(tail, batch), expected)
    assert TailLoss().count(batch) == len(batch.labels)
    spelled = sum(
        len(packs.texts.wanted[text][packs.texts.wanted[text] >= 0]) for _, own in packs.groups for text in own
    )
    assert len(batch.labels) == spelled


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_and_the_whole_model_has_learnt(tiny_vision, tiny_language, tmp_path, way):
    cut, tail, packs = made(tiny_vision, tiny_language, tmp_path, way, rank=16)
    frozen = {name: one.clone() for name, one in cut.model.model.named_parameters() if not one.requires_grad}
    asked = {"steps": 80, "lr": 0.06} if way == "prompts" else {"steps": 120, "lr": 0.003}
    found = fit(tail, TailLoss(), [packs], **ASKED | asked)
    assert found.losses[-1] < found.losses[0] - 1.5
    assert found.trained == sum(one.numel() for one in cut.model.model.parameters() if one.requires_grad)
    now = dict(cut.model.model.named_parameters())
    assert all(torch.equal(one, now[name]) for name, one in frozen.items()), "frozen weights are as they were"
    pictures, asked = [row.picture for row in ROWS[6:12]], [row.question for row in ROWS[6:12]]
    free = PackedAnswers(cut, tail, max_new_tokens=4)(pictures, asked)
    assert free == answer(cut.model, pictures, asked, max_new_tokens=4)
    assert free == [row.answer for row in ROWS[6:12]], "which the pictures alone tell"


@pytest.mark.parametrize("way", ["mid-layer", "prompts"])
def test_parts_of_a_batch_are_the_batch(tiny_vision, tiny_language, tmp_path, way):
    losses, found = [], []
    for parts in (1, 3):
        _, tail, packs = made(tiny_vision, tiny_language, tmp_path, way)
        done = fit(tail, TailLoss(), [packs], **ASKED | {"steps": 4, "batch_size": 7}, accumulate=parts)
        losses.append(done.losses)
        found.append(weights(tail))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("way", ["dropout", "prompts"])
def test_stopped_and_resumed_ends_with_the_same_weights(tiny_vision, tiny_language, tmp_path, way):
    def run(**more):
        _, tail, packs = made(tiny_vision, tiny_language, tmp_path / "store", way)
        return fit(tail, TailLoss(), [packs], **ASKED | {"steps": 12}, every=5, **more), weights(tail)

    whole, expected = run()
    stopped, _ = run(checkpoint=tmp_path / "run", stop_after=7)
    assert stopped.losses == whole.losses[:7]
    resumed, found = run(checkpoint=tmp_path / "run")
    assert (resumed.resumed_at, resumed.losses) == (7, whole.losses)
    assert same(found, expected)


def test_what_the_weights_do_not_say_makes_another_run(tiny_vision, tiny_language, tmp_path):
    """LoRA's scale and dropout, the precision, and the frozen layers above the cut are in no trained weight."""

    def at(vision=tiny_vision, language=tiny_language, **options):
        _, tail, packs = made(vision, language, tmp_path / "store", **options)
        return fit(tail, TailLoss(), [packs], **ASKED | {"steps": 2}, checkpoint=tmp_path / "run").resumed_at

    assert (at(), at()) == (0, 2)
    for change in ({"alpha": 5.0}, {"rslora": True}, {"dropout": 0.1}, {"dtype": torch.bfloat16}):
        assert at(**change) == 0, change
        assert at(**change) == 2, change
    assert at() == 2


def test_bfloat16_and_mixed_precision_train_too(tiny_vision, tiny_language, tmp_path):
    losses = []
    for dtype, precision in ((torch.float32, "no"), (torch.bfloat16, "no"), (torch.float32, "bf16")):
        _, tail, packs = made(tiny_vision, tiny_language, tmp_path, dtype=dtype)
        losses.append(fit(tail, TailLoss(), [packs], **ASKED | {"steps": 10}, precision=precision).losses)
    for rough in losses[1:]:
        assert rough == pytest.approx(losses[0], rel=0.1)
        assert rough != losses[0]


KILLED = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
import torch
torch.set_num_threads(1)
from test_tail_loss import ASKED, TailLoss, fit, made, weights

@dataclass(frozen=True)
class Loud(TailLoss):
    def __call__(self, model, batch):
        print("part", flush=True)
        time.sleep(PAUSE)
        return super().__call__(model, batch)

vision, language, store, checkpoint, way, PAUSE = *map(Path, sys.argv[2:6]), sys.argv[6], float(sys.argv[7])
_, tail, packs = made(vision, language, store, way)
done = fit(tail, Loud(), [packs], **ASKED | {"steps": 30}, accumulate=2, every=1, checkpoint=checkpoint)
numbers = [loss.hex() for loss in done.losses] + [float(one.double().sum()).hex() for one in weights(tail).values()]
print(done.resumed_at, *numbers)
"""


@pytest.mark.soak
@pytest.mark.parametrize("way", ["dropout", "prompts"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_step_it_ends_with_the_same_weights(tmp_path, tiny_vision, tiny_language, way, seed):
    def start(name, pause):
        store = tmp_path / f"store-{name}"
        words = [":".join(sys.path), tiny_vision, tiny_language, store, tmp_path / name, way, pause]
        command = [sys.executable, "-c", KILLED, *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    expected = start("whole", 0).communicate(timeout=600)[0].splitlines()[-1].split()
    rng = random.Random(seed)
    parts = rng.randrange(3, 50)  # of 60: two a step
    killed = start("killed", 0.02)
    for _ in range(parts):
        assert killed.stdout.readline() == "part\n"
    time.sleep(rng.random() * 0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    found = start("killed", 0).communicate(timeout=600)[0].splitlines()[-1].split()
    assert (parts - 1) // 2 - 1 <= int(found[0]) < 30, "it went on from where it was killed"
    assert found[1:] == expected[1:]

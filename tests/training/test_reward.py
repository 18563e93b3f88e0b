"""A reward model finds what was preferred in answers that it has not seen, and chooses by it."""

import math
import random

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch
from torch.nn import functional as F

from kit.adapters.language import adapt_language
from kit.data.rows import Preference, Question
from kit.errors import DataError
from kit.intervals import exact
from kit.models.activations import ActivationStore
from kit.models.chat import Chat
from kit.models.halves import trunk
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.preference_packs import PreferencePacks
from kit.models.reward import Reward, RewardTail
from kit.training.fit import fit
from kit.training.reward import BradleyTerry

ONE, TWO = noise_pictures(2)
WORDS = ["red", "blue", "green", "triangle", "circle", "smiling", "face", "hearts", "grey", "teal", "yellow"]


def made(vision, language, store):
    model = tiny_stitch(vision, language, entry_layer=2)
    adapt_language(model, rank=4)
    cut = LanguageCut(model, ActivationStore(store))
    return cut, RewardTail(LanguageTail(cut))


def pairs(count, *, seed):
    """Preferences of someone who wants to hear of hearts, whatever else is said and however long."""
    luck = random.Random(seed)

    def said(more):
        words = [*luck.choices([word for word in WORDS if word != "hearts"], k=luck.randrange(2, 6)), *more]
        luck.shuffle(words)
        return " ".join(words)

    questions = ["What does it show?", "What colour?", "Which?"]
    return [
        Preference(f"{seed}.{n}", luck.choice([ONE, TWO, None]), luck.choice(questions), said(["hearts"]), said([]))
        for n in range(count)
    ]


def answers(rows):
    return [
        Question(f"{row.id}.{name}", row.picture, row.prompt, getattr(row, name))
        for row in rows
        for name in ("chosen", "rejected")
        if row.picture is not None
    ]


def test_it_ranks_pairs_that_it_was_not_trained_on(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path)
    held_out = pairs(90, seed=1)
    judged = answers(held_out)
    before = Reward(cut, tail).score(judged)
    assert not before.any(), "it begins without a taste"
    done = fit(tail, BradleyTerry(), [PreferencePacks.of(cut, pairs(96, seed=0))], steps=60, batch_size=24, lr=0.01)
    assert done.losses[0] == pytest.approx(math.log(2), rel=1e-5)
    rewards = Reward(cut, tail).score(judged).reshape(-1, 2)
    assert len(rewards) > 40
    right = exact(int((rewards[:, 0] > rewards[:, 1]).sum()), len(rewards))
    assert right.low > 0.5, right
    best = Reward(cut, tail).best(ONE, "Which?", ["red circle", "grey hearts face", "teal", "blue triangle"])
    assert best == 1


def test_the_reward_is_read_at_the_answers_last_token(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path)
    tail.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    rows = [Question("a", ONE, "Which?", "red and blue"), Question("b", TWO, "What colour is it?", "teal")]
    states, wanted = [], []
    watch = trunk(cut.model.language).norm.register_forward_hook(lambda _, given, found: states.append(found))
    for row in rows:
        inputs = {name: one for name, one in Chat.of(cut.model).encode(row).items() if name != "labels"}
        with torch.no_grad():
            cut.model.model(**inputs)
            wanted.append(float(states[-1][0, -2] @ tail.weight))  # the last token before the one that ends the answer
    watch.remove()
    assert Reward(cut, tail).score(rows) == pytest.approx(wanted, rel=1e-4)


def test_the_loss_is_the_logistic_one_and_both_head_and_adapters_learn(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path)
    tail.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    rows = [row for row in pairs(9, seed=3) if row.picture]
    loss = BradleyTerry()(tail, PreferencePacks.of(cut, rows).draw(np.arange(len(rows))))
    rewards = torch.tensor(Reward(cut, tail).score(answers(rows))).view(-1, 2)
    labels = torch.ones(len(rows), dtype=torch.float64)
    wanted = F.binary_cross_entropy_with_logits(rewards[:, 0] - rewards[:, 1], labels)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    loss.backward()
    moved = {name for name, one in tail.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert "weight" in moved
    assert any("lora_B" in name for name in moved)
    assert any("projector" in name for name in moved)


def test_nothing_to_judge(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path)
    with pytest.raises(DataError, match="score: there are no rows"):
        Reward(cut, tail).score([])

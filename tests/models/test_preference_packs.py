"""Preferences on a cut model: log-probabilities are the whole model's, pictures are shared, faulty rows refused."""

import dataclasses

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch

from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.data.picture import Picture
from kit.data.rows import Conversation, Message, Preference
from kit.errors import DataError, ModelError
from kit.models.activations import ActivationStore
from kit.models.chat import Chat
from kit.models.contrasted import contrasted, mismatched
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.preference_packs import PreferencePacks, likelihoods

ONE, TWO = noise_pictures(2)
ROWS = [
    Preference("a", ONE, "What colour is the shape?", "red", "a big blue triangle", 0.5),
    Preference("b", TWO, "Is there a triangle?", "no, there is none", "yes"),
    Preference("c", ONE, "Is there a triangle?", "yes", "no"),
    Preference("d", None, "Say yes", "yes", "I would rather not say that", 0.25),
    Preference("e", None, "Which?", "teal", "grey"),
]
WAYS = {
    "prefix": {"entry_layer": 0},
    "mid-layer, chat": {"entry_layer": 2, "template": "chat"},
    "prompts": {"prompted": True},
}


def made(vision, language, store, way="prefix", **options):
    """A cut model whose adapters move it, and its tail."""
    model = tiny_stitch(vision, language, **WAYS[way])
    if way == "prompts":
        add_llama_adapter(model.language, layers=3, tokens=4, rank=3)
        model.projector.requires_grad_(True)
    else:
        adapt_language(model, rank=3, **options)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.language.named_parameters():
        if parameter.requires_grad and "norm" not in name and "lora_A" not in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    cut = LanguageCut(model, ActivationStore(store))
    return cut, LanguageTail(cut).eval()


@torch.no_grad()
def by_hand(model, talk):
    """The log-probability of a conversation's answer, by the whole model's logits."""
    batch = dict(Chat.of(model).encode(talk))
    labels = batch.pop("labels")[0, 1:]
    logged = model.model(**batch).logits[0, :-1].double().log_softmax(-1)
    asked = labels >= 0
    return float(logged[asked].gather(1, labels[asked][:, None]).sum()), int(asked.sum())


@pytest.mark.parametrize("way", WAYS)
def test_log_probabilities_are_the_whole_models(tiny_vision, tiny_language, tmp_path, way):
    cut, tail = made(tiny_vision, tiny_language, tmp_path, way)
    column = PreferencePacks.of(cut, ROWS, mismatch=True)
    found = likelihoods(tail, column, batch_size=2)
    wanted = [by_hand(cut.model, talk) for talk in contrasted(ROWS)]
    torch.testing.assert_close(found.answers, torch.tensor(wanted)[:, 0].view(5, 2), rtol=1e-4, atol=1e-4)
    assert found.tokens.flatten().tolist() == [count for _, count in wanted]
    others = torch.tensor([by_hand(cut.model, talk)[0] for talk in mismatched(ROWS)])
    torch.testing.assert_close(found.mismatched, others, rtol=1e-4, atol=1e-4)
    assert found.answers.std() > 1, "they differ, so that equality says something"


def test_a_drawn_batch_holds_each_picture_once_and_its_own_numbers(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path)
    column = PreferencePacks.of(cut, ROWS).with_reference(tail)
    assert len(column) == 5
    batch = column.draw(np.array([2, 4, 0, 3]))
    assert batch.texts.pictured.tolist() == [True, False], "c and a are about one picture, e and d about none"
    assert batch.texts.prefix[:8].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert batch.margins.tolist() == [1.0, 1.0, 0.5, 0.25]
    assert torch.equal(batch.reference, column.reference[[2, 4, 0, 3]])
    torch.testing.assert_close(batch.likelihood(tail).answers.detach(), batch.reference, rtol=1e-5, atol=1e-5)
    assert batch.others is None


def test_each_answer_moves_the_weights_by_its_own_gradient(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path)
    answers = PreferencePacks.of(cut, ROWS).draw(np.arange(5)).likelihood(tail).answers
    weights = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    names = [name for name, one in cut.model.model.named_parameters() if one.requires_grad]
    trained = [one for one in cut.model.model.parameters() if one.requires_grad]
    found = torch.autograd.grad((weights * answers).sum(), trained)
    whole = []
    for talk in contrasted(ROWS):
        batch = dict(Chat.of(cut.model).encode(talk))
        labels = batch.pop("labels")[0, 1:]
        logged = cut.model.model(**batch).logits[0, :-1].log_softmax(-1)
        whole.append(logged[labels >= 0].gather(1, labels[labels >= 0][:, None]).sum())
    wanted = torch.autograd.grad((weights.flatten() * torch.stack(whole)).sum(), trained)
    assert len(names) > 50
    for name, one, other in zip(names, found, wanted, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm(), name


def test_the_reference_is_of_evaluation_mode_and_part_of_the_columns_identity(tiny_vision, tiny_language, tmp_path):
    cut, tail = made(tiny_vision, tiny_language, tmp_path, dropout=0.5)
    column = PreferencePacks.of(cut, ROWS)
    one, other = (column.with_reference(tail.train(), batch_size=size) for size in (1, 5))
    assert tail.training, "it is left as it was"
    torch.testing.assert_close(one.reference, other.reference, rtol=1e-5, atol=1e-5)
    moved = dataclasses.replace(one, reference=one.reference + 1)
    weighed = dataclasses.replace(one, margins=one.margins * 2)
    assert len({made.digest() for made in (column, one, moved, weighed)}) == 4
    assert column.digest() == PreferencePacks.of(cut, ROWS).digest()
    with pytest.raises(ModelError, match="batch_size: must be at least 1, got 0"):
        column.with_reference(tail, batch_size=0)


def test_all_faults_are_told_at_once(tiny_vision, tiny_language, tmp_path):
    cut, _ = made(tiny_vision, tiny_language, tmp_path)
    bad = [
        Preference("void", ONE, "Which?", " ", "red"),
        Preference("mute", ONE, "Which?", "red", ""),
        Preference("same", ONE, "Which?", "red", "red "),
        Preference("weak", ONE, "Which?", "red", "blue", 0.0),
        Preference("nan", ONE, "Which?", "red", "blue", float("nan")),
        Preference("long", ONE, "Which?", "red", "blue " * 400),
        Preference("mark", ONE, "Which <file_sep>?", "red", "blue"),
    ]
    with pytest.raises(DataError) as told:
        PreferencePacks.of(cut, [*ROWS, *bad])
    text = str(told.value)
    for part in (
        "1 of 12: the chosen answer is empty (void)", "1 of 12: the rejected answer is empty (mute)",
        "1 of 12: both answers are the same (same)", "2 of 12: the margin is no number above 0 (weak, nan)",
        "(long (rejected))", "the model reads 256 in all", "stands for a picture",
        "(mark (chosen), mark (rejected))",
    ):  # fmt: skip
        assert part in text, part
    assert "(void (chosen))" not in text, "no row is told twice"
    with pytest.raises(DataError, match="there are no rows"):
        PreferencePacks.of(cut, [])


def test_a_template_that_loses_the_picture_is_refused(tiny_vision, tiny_language, tmp_path):
    cut, _ = made(tiny_vision, tiny_language, tmp_path, "mid-layer, chat")
    blind = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }} {% endfor %}{% endfor %}"
    cut.model.processor.chat_template = blind
    with pytest.raises(DataError, match="leaves the picture out"):
        PreferencePacks.of(LanguageCut(cut.model, cut.store), ROWS[:2])


def test_a_picture_that_cannot_be_read_is_refused(tiny_vision, tiny_language, tmp_path):
    cut, _ = made(tiny_vision, tiny_language, tmp_path)
    broken = Picture("broken.png", reader=lambda: b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        PreferencePacks.of(cut, [*ROWS, Preference("x", broken, "Which?", "red", "blue")])


def test_a_mismatched_answer_belongs_to_another_question():
    for row, talk in zip(ROWS, mismatched(ROWS), strict=True):
        assert (talk.picture, talk.messages[0].text) == (row.picture, row.prompt)
    said = [talk.messages[1].text for talk in mismatched(ROWS)]
    assert said == ["no, there is none", "no", "yes", "grey", "red"], "the next row's, chosen and rejected in turn"
    alike = [dataclasses.replace(ROWS[0], id=name) for name in "pq"]
    with pytest.raises(DataError, match="all rows ask the same"):
        mismatched(alike)
    assert contrasted(alike)[1] == Conversation(
        "p (rejected)", ONE, (Message("user", ROWS[0].prompt), Message("assistant", "a big blue triangle"))
    )

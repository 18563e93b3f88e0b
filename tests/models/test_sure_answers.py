"""How sure a cut model is: the answers are those of ``PackedAnswers``, the probabilities those of the whole model."""

import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch

from kit.adapters.language import adapt_language
from kit.errors import ModelError
from kit.models.activations import ActivationStore
from kit.models.chat import Chat
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.packed_answers import PackedAnswers
from kit.models.sure_answers import SureAnswers

ONE, TWO = noise_pictures(2)
PICTURES = [ONE, TWO, None, ONE, ONE]
QUESTIONS = ["What colour is the shape?", "red?", "Say yes", "Is there a triangle?", "What colour is the shape?"]
CANDIDATES = ["yes", "no", "red", "red and blue", "red and green", "a red triangle", "yes it is"]


@pytest.fixture(scope="module")
def cut(tiny_vision, tiny_language, tmp_path_factory):
    model = adapt_language(tiny_stitch(tiny_vision, tiny_language, entry_layer=2), rank=3)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return LanguageCut(model, ActivationStore(tmp_path_factory.mktemp("store")))


@torch.no_grad()
def by_hand(model, picture, question):
    """The chance of the greedy choice, one token at a time, with the whole model."""
    inputs = dict(Chat.of(model).prompts([picture], [question]))
    left = {text: model.processor.tokenizer.encode(f" {text}<|im_end|>") for text in CANDIDATES}
    depth, chance = 0, 1.0
    while len(left) > 1:
        scores = model.model(**inputs).logits[0, -1]
        possible = sorted({ids[depth] for ids in left.values()})
        odds = scores[possible].softmax(-1)
        chance *= float(odds.max())
        best = possible[int(odds.argmax())]
        left = {text: ids for text, ids in left.items() if ids[depth] == best}
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[best]])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        depth += 1
    return next(iter(left)), chance


def test_answers_are_the_same_and_probabilities_those_of_the_whole_model(cut):
    tail = LanguageTail(cut)
    answers, chance = SureAnswers(cut, tail, candidates=CANDIDATES).sure(PICTURES, QUESTIONS)
    assert answers == PackedAnswers(cut, tail, candidates=CANDIDATES)(PICTURES, QUESTIONS)
    for row, (picture, question) in enumerate(zip(PICTURES, QUESTIONS, strict=True)):
        said, expected = by_hand(cut.model, picture, question)
        assert said == answers[row]
        assert chance[row] == pytest.approx(expected, rel=1e-3)
    assert chance[0] == chance[4]


def test_nothing_is_asked_of_no_question_and_candidates_are_needed(cut):
    tail = LanguageTail(cut)
    assert SureAnswers(cut, tail, candidates=CANDIDATES).sure([], []).answers == []
    with pytest.raises(ModelError, match="need candidates"):
        SureAnswers(cut, tail).sure([ONE], ["red?"])

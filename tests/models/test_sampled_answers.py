"""Sampled answers: drawn with the model's own probabilities, the same luck for the same seed."""

import collections

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
from kit.models.sampled_answers import SampledAnswers

ONE, TWO = noise_pictures(2)


@pytest.fixture(scope="module")
def parts(tiny_vision, tiny_language, tmp_path_factory):
    model = tiny_stitch(tiny_vision, tiny_language, entry_layer=2)
    adapt_language(model, rank=4)
    cut = LanguageCut(model, ActivationStore(tmp_path_factory.mktemp("store")))
    return cut, LanguageTail(cut).eval()


def test_first_tokens_come_as_often_as_the_whole_model_says(parts):
    cut, _ = parts
    drawn = SampledAnswers(*parts, temperature=0.5, max_new_tokens=1).several([ONE], ["What colour is it?"], times=3000)
    with torch.no_grad():
        logits = (
            cut.model.model(**Chat.of(cut.model).prompts([ONE], ["What colour is it?"])).logits[0, -1].float() / 0.5
        )
    logits[cut.chat.form.placeholder_id] = -torch.inf
    chance = logits.softmax(-1)
    seen = collections.Counter(drawn[0])
    for token in chance.topk(5).indices.tolist():
        word = cut.model.processor.tokenizer.decode([token], skip_special_tokens=True).strip()
        same = [
            number
            for number in range(len(chance))
            if cut.model.processor.tokenizer.decode([number], skip_special_tokens=True).strip() == word
        ]
        share = float(chance[same].sum())
        assert abs(seen[word] / 3000 - share) < 4 * (share * (1 - share) / 3000) ** 0.5 + 1e-9, word


def test_a_cold_draw_is_the_greedy_answer(parts):
    asked = ([ONE, None, TWO], ["Which?", "What colour is it?", "Which?"])
    cold = SampledAnswers(*parts, temperature=1e-4, max_new_tokens=6)(*asked)
    assert cold == PackedAnswers(*parts, max_new_tokens=6)(*asked)


def test_several_keep_their_rows_and_their_luck(parts):
    asked = ([ONE, TWO, ONE], ["Which?", "Which?", "What colour is it?"])
    answers = SampledAnswers(*parts, temperature=2.0, max_new_tokens=5, seed=3)
    found = answers.several(*asked, times=70)
    assert [len(own) for own in found] == [70] * 3
    assert len(set(found[0])) > 5
    assert answers.several(*asked, times=70) == found
    assert SampledAnswers(*parts, temperature=2.0, max_new_tokens=5, seed=4).several(*asked, times=70) != found
    assert answers.several([], [], times=2) == []


def test_what_is_no_lot(parts):
    with pytest.raises(ModelError, match="temperature: must be above 0, got 0"):
        SampledAnswers(*parts, temperature=0)
    with pytest.raises(ModelError, match="times: must be at least 1, got 0"):
        SampledAnswers(*parts).several([ONE], ["Which?"], times=0)

"""Texts read after a common beginning: as the whole model reads them, in any order and length."""

import numpy as np
import pytest
import torch
from stitched_models import LAYERS, write_language

from kit.models import text_states
from kit.models.halves import lower
from kit.models.text_states import TextStates


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(write_language(tmp_path_factory.mktemp("language"))).eval()


def _reader(language, cut, opening):
    return TextStates(language.get_input_embeddings(), lower(language, cut), opening, language.device)


@torch.no_grad()
def _whole(language, cut, ids):
    return language(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[cut][0].numpy()


@pytest.mark.parametrize("cut", [0, 1, LAYERS - 1])
@pytest.mark.parametrize("opening", [(), (3,), (3, 9, 4, 11, 7)])
def test_states_are_those_of_the_whole_model(language, cut, opening, monkeypatch):
    monkeypatch.setattr(text_states, "BATCH", 3)
    monkeypatch.setattr(text_states, "SHARD", 5)
    draw = np.random.default_rng(0)
    one = tuple(draw.integers(1, 90, 7).tolist())
    texts = [one, one[:4], (*one[:5], 8, 9), (2,), (*one[:3], 5), one[:3], one[:1], (7, *one[:6])]
    reader = _reader(language, cut, opening)
    shards = list(reader.read(texts, 8))
    assert [shard.shape[:2] for shard in shards] == [(5, 8), (3, 8)]
    for states, text in zip(np.concatenate(shards), texts, strict=True):
        right = _whole(language, cut, (*opening, *text))[len(opening) :]
        assert states[: len(text)] == pytest.approx(right, rel=1e-4, abs=1e-5)
        assert not states[len(text) :].any()
    assert reader.opening.shape == (len(opening), right.shape[-1])
    if opening:
        assert reader.opening.numpy() == pytest.approx(_whole(language, cut, opening), rel=1e-4, abs=1e-5)


def test_what_texts_begin_with_is_read_once(language):
    read = []
    below = lower(language, 2)

    def counting(hidden, mask, past=None, **more):
        read.append(hidden.shape[0] * hidden.shape[1])
        return below(hidden, mask, past, **more)

    reader = TextStates(language.get_input_embeddings(), counting, range(1, 21), language.device)
    for _ in range(2):
        list(reader.read([(1, 2, 3, 4), (4, 5, 6), (1, 2, 3, 5), (1, 2, 3)], 8))
    assert text_states.STRIDE == 3
    assert read == [20, 6, 6, 6, 6]

"""Answers of a cut model, against generating with the whole one and choosing by hand."""

import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch

from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.errors import DataError
from kit.models.activations import ActivationStore
from kit.models.chat import Chat, answer
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.packed_answers import PackedAnswers

ONE, TWO, THREE = noise_pictures(3)
PICTURES = [ONE, TWO, None, ONE, THREE, None, ONE, TWO, ONE]
QUESTIONS = [
    "What colour is the shape?", "red?", "Say yes", "Is there a triangle?", "What colour is the shape?", "Say yes",
    "What colour is the shape?", "Is there a triangle in the picture, or a circle?", "red?",
]  # fmt: skip
# Some share first tokens, one is the beginning of another, and two are of one token.
CANDIDATES = ["yes", "no", "red", "red and blue", "red and green", "a red triangle", "yes it is"]
WAYS = {
    "prefix": {"entry_layer": 0},
    "mid-layer, chat": {"entry_layer": 2, "template": "chat"},
    "prompts": {"prompted": True},
}


@pytest.fixture(scope="module", params=WAYS)
def cut(request, tiny_vision, tiny_language, tmp_path_factory):
    """A cut model that pictures move."""
    model = tiny_stitch(tiny_vision, tiny_language, **WAYS[request.param])
    if request.param == "prompts":
        add_llama_adapter(model.language, layers=3, tokens=4, rank=3)
    else:
        adapt_language(model, rank=3)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.language.named_parameters():
        if parameter.requires_grad and "norm" not in name and "lora_A" not in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.projector.scale *= 1 if "mid" in request.param else 20
    return LanguageCut(model, ActivationStore(tmp_path_factory.mktemp("store")))


@torch.no_grad()
def by_hand(model, candidates, picture, question):
    """Choose greedily with the whole model, one token at a time."""
    inputs = dict(Chat.of(model).prompts([picture], [question]))
    spelled = {text: model.processor.tokenizer.encode(f" {text}<|im_end|>") for text in candidates}
    if model.processor.template == "chat":
        spelled = {text: model.processor.tokenizer.encode(f"{text}<|im_end|>") for text in candidates}
    depth = 0
    while len(spelled) > 1:
        scores = model.model(**inputs).logits[0, -1]
        best = max((ids[depth] for ids in spelled.values()), key=lambda token: scores[token])
        spelled = {text: ids for text, ids in spelled.items() if ids[depth] == best}
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[best]])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        depth += 1
    return next(iter(spelled))


def test_free_answers_are_what_the_whole_model_writes(cut):
    free = PackedAnswers(cut, LanguageTail(cut), max_new_tokens=5)
    found = free(PICTURES, QUESTIONS)
    assert found == answer(cut.model, PICTURES, QUESTIONS, max_new_tokens=5)
    assert len(set(found)) >= (5 if cut.model.processor.template == "plain" else 2), "it looks and reads"


def test_an_answer_ends_where_the_model_ends_it(cut):
    settings = cut.model.model.generation_config
    own = settings.eos_token_id
    whole = PackedAnswers(cut, LanguageTail(cut), max_new_tokens=4)(PICTURES, QUESTIONS)
    rows = Chat.of(cut.model).prompts(PICTURES, QUESTIONS)
    said = cut.model.model.generate(**rows, max_new_tokens=4, do_sample=False)[:, rows["input_ids"].shape[1] :]
    try:
        # Any token may end an answer: some end at once, some later, some not at all.
        settings.eos_token_id = [own, int(said[0, 0]), int(said[1, 2])]
        again = LanguageCut(cut.model, cut.store)
        found = PackedAnswers(again, LanguageTail(again), max_new_tokens=4)(PICTURES, QUESTIONS)
        expected = answer(cut.model, PICTURES, QUESTIONS, max_new_tokens=4)
    finally:
        settings.eos_token_id = own
    assert found == expected
    assert found[0] == cut.model.processor.tokenizer.decode(said[0, :1]).strip()
    assert found != whole


def test_the_image_token_is_never_said(cut):
    model, mark = cut.model, cut.model.model.config.image_token_id
    head = model.language.get_output_embeddings().weight.data  # tied: the token's embedding, which is never read
    own = head[mark].clone()
    try:
        first = answer(model, PICTURES, QUESTIONS, max_new_tokens=3)
        with torch.no_grad():
            state = model.model(**Chat.of(model).prompts([ONE], QUESTIONS[:1]))
        head[mark] = 100 * (state.logits[0, -1].softmax(-1)[:, None] * head).sum(0)
        with torch.no_grad():
            again = model.model(**Chat.of(model).prompts([ONE], QUESTIONS[:1])).logits[0, -1]
        assert again.argmax() == mark, "it would be the likeliest"
        assert answer(model, PICTURES, QUESTIONS, max_new_tokens=3) == first
        assert PackedAnswers(cut, LanguageTail(cut), max_new_tokens=3)(PICTURES, QUESTIONS) == first
    finally:
        head[mark] = own


def test_chosen_answers_are_those_chosen_by_hand(cut):
    found = PackedAnswers(cut, LanguageTail(cut), candidates=CANDIDATES)(PICTURES, QUESTIONS)
    assert found == [by_hand(cut.model, CANDIDATES, *one) for one in zip(PICTURES, QUESTIONS, strict=True)]
    assert len(set(found)) >= (2 if cut.model.processor.template == "plain" else 1)
    for some in (["red", "red and blue", "red and green"], ["yes", "yes it is"], ["no", "blue", "no"]):
        found = PackedAnswers(cut, LanguageTail(cut), candidates=some)(PICTURES, QUESTIONS)
        assert found == [by_hand(cut.model, sorted({*some}), *one) for one in zip(PICTURES, QUESTIONS, strict=True)]


def test_many_questions_about_many_pictures_keep_their_order(cut):
    pictures = noise_pictures(20)
    asked = [(pictures[(7 * number) % 20], QUESTIONS[number % 4]) for number in range(60)]
    asked += [(ONE, f"What number? {number}") for number in range(70)]  # more than are asked of a picture at a time
    answers = PackedAnswers(cut, LanguageTail(cut), candidates=CANDIDATES)
    found = answers([picture for picture, _ in asked], [question for _, question in asked])
    backwards = answers([picture for picture, _ in asked[::-1]], [question for _, question in asked[::-1]])
    assert found == backwards[::-1]
    for place in (0, 1, 22, 59, 60, 100, 129):
        assert found[place] == by_hand(cut.model, CANDIDATES, *asked[place])


def test_equal_questions_are_asked_once(cut, monkeypatch):
    seen = []
    draw = type(cut).prompts
    monkeypatch.setattr(
        type(cut), "prompts", lambda self, about, ids, **more: seen.append(len(ids)) or draw(self, about, ids, **more)
    )
    found = PackedAnswers(cut, LanguageTail(cut), candidates=["yes", "no"])(PICTURES * 3, QUESTIONS * 3)
    assert seen == [7]
    assert found[:9] == found[9:18] == found[18:]


def test_nothing_asked_is_nothing_said(cut):
    for candidates in (None, CANDIDATES):
        assert PackedAnswers(cut, LanguageTail(cut), candidates=candidates)([], []) == []


def test_dropout_is_off_while_answering(tiny_vision, tiny_language, tmp_path):
    model = adapt_language(tiny_stitch(tiny_vision, tiny_language), rank=2, dropout=0.5)
    cut = LanguageCut(model, ActivationStore(tmp_path))
    tail = LanguageTail(cut).train()
    free = PackedAnswers(cut, tail, max_new_tokens=4)
    assert free(PICTURES, QUESTIONS) == answer(model, PICTURES, QUESTIONS, max_new_tokens=4)


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (["red"], r"must be at least two answers, got \['red'\]"),
        (["red", "red"], "must be at least two answers"),
        (["red", " "], r"must be at least two answers, got \[' ', 'red'\]"),
        (["red", "red "], "'red' and 'red ' are the same to the model"),
    ],
)
def test_candidates_that_are_none_are_said(cut, candidates, said):
    if said.startswith("'red'") and cut.model.processor.template == "chat":
        pytest.skip("only the plain template trims")
    with pytest.raises(DataError, match=said):
        PackedAnswers(cut, LanguageTail(cut), candidates=candidates)


def test_a_question_of_no_words_is_said(tiny_vision, tiny_language, tmp_path):
    cut = LanguageCut(tiny_stitch(tiny_vision, tiny_language), ActivationStore(tmp_path))
    with pytest.raises(DataError, match="'' asks nothing"):
        PackedAnswers(cut, LanguageTail(cut))([ONE], [""])

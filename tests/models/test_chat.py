"""Rows as inputs, and answers: what a batch holds is what each row alone would be."""

import dataclasses

import pytest
import torch
from dual_encoders import noise_pictures
from tiny_models import TINY, load_tiny
from torch.nn import functional as F

from kit.data.rows import Conversation, Message, Question
from kit.errors import DataError
from kit.models.chat import Chat, answer
from kit.models.turns import IGNORED

PICTURES = [*noise_pictures(3, size=32), *noise_pictures(1, size=90)]
ROWS = [
    Question("short", PICTURES[0], "What colour?", "red"),
    Question("long", PICTURES[1], "Is there a triangle in the picture, or is there a circle?", "no"),
    Conversation("text", None, (Message("user", "Say yes"), Message("assistant", "yes, yes"))),
    Question("large", PICTURES[3], "Which?", "a teal one"),
]


@torch.no_grad()
def losses(model, batch):
    logits, labels = model.model(**batch).logits[:, :-1], batch["labels"][:, 1:]
    return [F.cross_entropy(row[of != IGNORED], of[of != IGNORED]).item() for row, of in zip(logits, labels)]  # noqa: B905


def test_a_row_has_the_same_loss_alone_and_padded_beside_others(tiny_model):
    chat = Chat.of(tiny_model)
    together = losses(tiny_model, chat.batch(ROWS))
    alone = [losses(tiny_model, chat.batch([row]))[0] for row in ROWS]
    assert together == pytest.approx(alone, abs=3e-6)
    assert len(set(together)) == len(ROWS)


def test_the_picture_counts_and_has_its_tokens(tiny_model):
    chat, name = Chat.of(tiny_model), tiny_model.model.config.model_type
    row = chat.encode(ROWS[0])
    assert int((row["input_ids"] == chat.image_token_id).sum()) == TINY[name].image_tokens
    assert int((chat.encode(ROWS[2])["input_ids"] == chat.image_token_id).sum()) == 0
    other = chat.encode(dataclasses.replace(ROWS[0], picture=PICTURES[2]))
    assert torch.equal(row["input_ids"], other["input_ids"])
    assert losses(tiny_model, row) != losses(tiny_model, other)


def test_prompts_are_those_of_the_processors_own_template(tiny_model):
    chat, processor = Chat.of(tiny_model), tiny_model.processor
    ours = chat.prompts([PICTURES[0]], ["What colour?"])
    if chat.form.template is None:
        theirs = processor(text=["<image>What colour?"], images=[PICTURES[0].open()], return_tensors="pt")
        del theirs["labels"]
    else:
        content = [{"type": "image", "image": PICTURES[0].open()}, {"type": "text", "text": "What colour?"}]
        theirs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.to(ours[name].dtype)), name


def test_answers_are_greedy_and_the_same_in_any_batch(tiny_model):
    pictures, questions = [row.picture for row in ROWS], ["Which colour?", "Is it?", "Say", "What is in the picture?"]
    answers = answer(tiny_model, pictures, questions, max_new_tokens=6)
    assert answers == answer(tiny_model, pictures, questions, max_new_tokens=6, batch_size=1)
    chat, tokenizer = Chat.of(tiny_model), tiny_model.processor.tokenizer
    # PaliGemma's types say what is read in one direction only, Gemma 3's and Qwen's what is a picture.
    suffix = int(tiny_model.model.config.model_type == "paligemma")
    added = {"input_ids": None, "attention_mask": 1, "token_type_ids": suffix, "mm_token_type_ids": 0}
    inputs, written = dict(chat.prompts(pictures[:1], questions[:1])), []
    for _ in range(6):  # by hand, without a cache of keys and values
        with torch.no_grad():
            token = int(tiny_model.model(**inputs, use_cache=False).logits[0, -1].argmax())
        if token in chat.form.ends:
            break
        written.append(token)
        for name in inputs.keys() & added.keys():
            value = token if name == "input_ids" else added[name]
            inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], dim=1)
    assert answers[0] == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_pixels_come_in_the_models_type(tiny_folders):
    model = load_tiny(tiny_folders("llava"), dtype="bfloat16")
    batch = Chat.of(model).batch(ROWS)
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert batch["input_ids"].dtype == torch.int64
    assert all(map(torch.isfinite, map(torch.tensor, losses(model, batch))))


def test_the_context_is_the_models_or_shorter(tiny_folders):
    model = load_tiny(tiny_folders("gemma3"))
    assert Chat.of(model).context == 256
    assert Chat.of(model, max_length=40).context == 40
    assert Chat.of(model, max_length=4000).context == 256


@pytest.mark.parametrize("name", ["smolvlm", "qwen3_vl", "llava", "gemma3"])
def test_an_image_token_in_the_text_is_refused(tiny_folders, name):
    model = load_tiny(tiny_folders(name))
    mark = model.processor.image_token
    for picture in (None, PICTURES[0]):
        with pytest.raises(DataError, match=r"q: the image token .* stands in the text"):
            Chat.of(model).encode(Question("q", picture, f"What is {mark}?", "red"))


def test_a_template_that_leaves_the_picture_out_is_refused(tiny_folders):
    model = load_tiny(tiny_folders("qwen2_5_vl"))
    model.processor.chat_template = model.processor.chat_template.replace("<|image_pad|>", "")
    with pytest.raises(DataError, match="short: the chat template leaves the picture out"):
        Chat.of(model).encode(ROWS[0])


def test_the_digest_is_that_of_all_that_happens_to_a_row(tiny_folders):
    def changed(change):
        model = load_tiny(tiny_folders("smolvlm"))
        change(model)
        return Chat.of(model).digest()

    same = changed(lambda model: None)
    assert same == changed(lambda model: None)
    assert same != Chat.of(load_tiny(tiny_folders("smolvlm")), max_length=99).digest()

    def template(model):
        model.processor.chat_template += " "

    def pixels(model):
        model.processor.image_processor.size = {"longest_edge": 32}

    def words(model):
        model.processor.tokenizer.add_tokens(["triangle"])

    def end(model):
        model.model.generation_config.eos_token_id = [1, 2]

    others = [changed(change) for change in (template, pixels, words, end)]
    assert len({same, *others}) == 5

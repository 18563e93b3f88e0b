"""Tokens counted before training are those that training sees; what does not fit is said at once, for all rows."""

import dataclasses
import io

import pytest
from dual_encoders import noise_pictures
from PIL import Image
from tiny_models import load_tiny

from kit.data.picture import Picture
from kit.data.rows import Conversation, Message, Question
from kit.errors import DataError
from kit.models.chat import Chat
from kit.models.image_tokens import count_tokens
from kit.models.turns import IGNORED


def drawn(width, height, *, turned=False, kind="PNG"):
    file, exif = io.BytesIO(), Image.Exif()
    if turned:
        exif[274] = 6
    Image.new("RGB", (width, height), "red").save(file, kind, exif=exif)
    return Picture(f"{width} x {height}", reader=file.getvalue)


SVG = Picture("svg", reader=b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>'.strip, size=48)
PICTURES = [drawn(32, 32), drawn(64, 32), drawn(90, 40, kind="JPEG", turned=True), drawn(40, 90), SVG]
ROWS = [
    Question(f"q{number}", picture, "What colour is it?" + " And why?" * number, "red")
    for number, picture in enumerate(PICTURES)
]
TEXT = Conversation("text", None, (Message("user", "Say yes"), Message("assistant", "yes, yes")))


def test_what_is_counted_is_what_the_model_gets(tiny_model):
    chat, rows = Chat.of(tiny_model), [*ROWS, TEXT]
    lengths = count_tokens(chat, rows, picture_required=False)
    encoded = [chat.encode(row) for row in rows]
    assert lengths.tokens.tolist() == [row["input_ids"].shape[1] for row in encoded]
    assert lengths.image_tokens.tolist() == [int((row["input_ids"] == chat.image_token_id).sum()) for row in encoded]
    assert lengths.answer_tokens.tolist() == [int((row["labels"] != IGNORED).sum()) for row in encoded]
    if tiny_model.model.config.model_type.startswith("qwen"):
        assert len(set(lengths.image_tokens.tolist())) > 2, "a larger picture has more tokens"


def test_the_processor_runs_once_for_each_size(tiny_folders, monkeypatch):
    model, seen = load_tiny(tiny_folders("llava")), []
    once = type(model.processor).__call__
    monkeypatch.setattr(type(model.processor), "__call__", lambda *a, **k: seen.append(1) or once(*a, **k))
    rows = [Question(f"q{n}", picture, f"What is {n}?", "red") for n, picture in enumerate(noise_pictures(50))]
    count_tokens(Chat.of(model), rows)
    assert len(seen) == 1


def test_all_rows_that_cannot_be_trained_on_are_one_error(tiny_folders):
    chat = Chat.of(load_tiny(tiny_folders("smolvlm")), max_length=80)
    ask = ROWS[0]
    bad = [
        dataclasses.replace(ask, id="words", question="What " * 300),
        dataclasses.replace(ask, id="answer", answer="red " * 100),
        dataclasses.replace(ask, id="mark", question="What is <image>?"),
        dataclasses.replace(ask, id="broken", picture=Picture("broken.png", reader=lambda: b"no picture")),
        Conversation("unanswered", PICTURES[0], (Message("user", "Who?"),)),
        Conversation("empty", PICTURES[0], ()),
        *[dataclasses.replace(ask, id=f"none{number}", picture=None) for number in range(7)],
    ]
    with pytest.raises(DataError) as caught:
        count_tokens(chat, [*ROWS[:2], *bad])
    said = str(caught.value)
    for line in (
        "rows: 2 of 15: words past the context of 80 tokens (words, answer)",
        "rows: 1 of 15: the image token '<image>' stands in the text (mark)",
        "rows: 1 of 15: is no picture that Pillow can read (broken)",
        "rows: 1 of 15: no answer to learn from (unanswered)",
        "rows: 7 of 15: no picture (none0, none1, none2, none3, none4 and 2 others)",
        "Fix: leave them out, or pass picture_required=False",
    ):
        assert line in said, said
    assert "(empty)" in said
    assert len(caught.value.faults) == 6


@pytest.mark.parametrize(("name", "limit"), [("smolvlm", 15), ("llava", 12), ("gemma3", 8), ("paligemma", 10)])
def test_image_tokens_past_the_context_are_told_from_words(tiny_folders, name, limit):
    chat = Chat.of(load_tiny(tiny_folders(name)), max_length=limit)
    with pytest.raises(DataError, match=rf"rows: 5 of 5: image tokens past the context of {limit} tokens \(q0,.*"):
        count_tokens(chat, ROWS)


def test_the_limit_itself_fits(tiny_folders):
    model = load_tiny(tiny_folders("llava"))
    longest = int(count_tokens(Chat.of(model), ROWS).tokens.max())
    count_tokens(Chat.of(model, max_length=longest), ROWS)
    with pytest.raises(DataError, match=r"1 of 5: words past the context"):
        count_tokens(Chat.of(model, max_length=longest - 1), ROWS)


def test_a_template_without_a_place_for_the_picture(tiny_folders):
    model = load_tiny(tiny_folders("qwen3_vl"))
    model.processor.chat_template = model.processor.chat_template.replace("<|image_pad|>", "")
    with pytest.raises(DataError, match=r"rows: 5 of 5: the chat template leaves the picture out \(q0,"):
        count_tokens(Chat.of(model), ROWS)

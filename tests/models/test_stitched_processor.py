"""The stitched models' processor: Hugging Face's manners, one picture a text, no text taken for a picture."""

import json

import pytest
import torch
from PIL import Image
from stitched_models import smol_tokenizer
from tiny_models import tokenizer_of

from kit.errors import DataError, ModelError
from kit.models.pixels import Pixels
from kit.models.stitched_processor import CONFIG, StitchedProcessor, spare_token

PIXELS = {"open_clip": {"size": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3}}
RED, BLUE = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]}
TALK = [ASKED, {"role": "assistant", "content": "red"}, {"role": "user", "content": " Is it 1? "}]


@pytest.fixture(scope="module")
def processor():
    return StitchedProcessor(smol_tokenizer(), Pixels(PIXELS), image_tokens=3)


@pytest.fixture(scope="module")
def chat():
    return StitchedProcessor(smol_tokenizer(), Pixels(PIXELS), image_tokens=3, template="chat")


def test_the_plain_template_is_short(processor):
    rendered = processor.apply_chat_template([*TALK, {"role": "assistant", "content": "no"}])
    assert rendered == ("<|im_start|><file_sep>What colour? red<|im_end|><|im_start|>Is it 1? no<|im_end|>")
    spaced = [TALK[2], {"role": "assistant", "content": "\n no "}]
    assert processor.apply_chat_template(spaced) == "<|im_start|>Is it 1? no<|im_end|>"
    assert processor.apply_chat_template([ASKED], add_generation_prompt=True) == "<|im_start|><file_sep>What colour?"
    assert processor.apply_chat_template([{"role": "system", "content": "Be brief."}, TALK[2]]) == (
        "<|im_start|>Be brief.\nIs it 1?"
    )


def test_the_chat_template_is_the_tokenizers_own(chat):
    expected = smol_tokenizer().apply_chat_template(
        [{"role": "user", "content": "<file_sep>What colour?"}], add_generation_prompt=True, tokenize=False
    )
    assert chat.apply_chat_template([ASKED], add_generation_prompt=True) == expected
    assert expected.startswith(
        "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n<|im_start|>user\n<file_"
    )


@pytest.mark.parametrize("answer", ["red", "12 of them", "", " red ", "\nred"])
@pytest.mark.parametrize("which", ["processor", "chat"])
def test_a_prompts_tokens_begin_the_conversation_that_answers_it(which, answer, request):
    model = request.getfixturevalue(which)
    prompt = model.apply_chat_template([ASKED], add_generation_prompt=True)
    whole = model.apply_chat_template([ASKED, {"role": "assistant", "content": answer}])
    ids = [model(text, [RED])["input_ids"][0] for text in (prompt, whole)]
    assert ids[1][: len(ids[0])] == ids[0]
    assert model.tokenizer.eos_token_id in ids[1][len(ids[0]) :]


def test_a_picture_becomes_its_tokens_and_its_pixels(processor):
    found = processor([f"{processor.image_token}What?", "No picture."], [RED], return_tensors="pt")
    here = found["input_ids"] == processor.image_token_id
    assert here.sum(1).tolist() == [3, 0]
    assert torch.equal(found["pixel_values"], processor.image_processor.one(RED)[None])
    assert found["attention_mask"].shape == found["input_ids"].shape
    assert "pixel_values" not in processor("No picture.", return_tensors="pt")
    nested = processor([f"{processor.image_token}What?", "No picture."], [[RED], []], return_tensors="pt")
    assert torch.equal(nested["input_ids"], found["input_ids"])
    single = processor(text=f"{processor.image_token}What?", images=RED)
    assert single["input_ids"] == [[*found["input_ids"][0][found["attention_mask"][0].bool()].tolist()]]
    assert [*processor.batch_decode(found["input_ids"], skip_special_tokens=True)] == ["What?", "No picture."]
    assert processor.decode(found["input_ids"][1], skip_special_tokens=True) == "No picture."


def test_padding_is_on_the_left_unless_asked(processor):
    texts = ["What colour is the shape?", "no"]
    left, right = (processor(texts, return_tensors="pt", padding_side=side) for side in ("left", "right"))
    assert torch.equal(processor(texts, return_tensors="pt")["input_ids"], left["input_ids"])
    assert left["attention_mask"][1].tolist() == right["attention_mask"][1].tolist()[::-1]
    assert left["attention_mask"][1].tolist() == sorted(left["attention_mask"][1].tolist())
    assert (left["input_ids"][1][left["attention_mask"][1] == 0] == smol_tokenizer().pad_token_id).all()


def test_conversations_become_inputs_with_pictures_from_messages_or_beside_them(processor):
    inside = [{"role": "user", "content": [{"type": "image", "image": BLUE}, {"type": "text", "text": "What colour?"}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_tensors": "pt"}
    one = processor.apply_chat_template(inside, **options)
    beside = processor.apply_chat_template([ASKED], images=[BLUE], **options)
    assert torch.equal(one["pixel_values"], beside["pixel_values"])
    assert torch.equal(one["input_ids"], beside["input_ids"])
    several = processor.apply_chat_template([inside, [TALK[2]]], **options)
    assert several["input_ids"].shape[0] == 2
    assert several["pixel_values"].shape[0] == 1
    ids = processor.apply_chat_template([ASKED], images=[BLUE], return_dict=False, **options)
    assert torch.equal(ids, one["input_ids"])
    assert processor.apply_chat_template([inside, [TALK[2]]]) == [
        "<|im_start|><file_sep>What colour?",
        "<|im_start|>Is it 1?",
    ]


@pytest.mark.parametrize(
    ("texts", "images", "said"),
    [
        (["no place"], [RED], r"(?s)1 pictures for 0 places.*Fix: write '<file_sep>' where each picture goes"),
        (["<file_sep>a", "<file_sep>b"], [RED], "1 pictures for 2 places"),
        (["<file_sep>a"], None, "0 pictures for 1 places"),
        (["<file_sep>a", "b"], [[], [RED]], r"\[0, 1\] pictures for texts with \[1, 0\] places"),
        (["<file_sep><file_sep>"], [RED, BLUE], r"(?s)text 0: has 2 places for pictures.*Fix: split the text"),
    ],
)
def test_every_picture_needs_its_place(processor, texts, images, said):
    with pytest.raises(DataError, match=said):
        processor(texts, images)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": "a <file_sep> b"}, r"(?s)its text holds '<file_sep>'.*Fix: take it out"),
        ({"role": "user", "content": [{"type": "text", "text": "<file_sep>"}]}, "its text holds '<file_sep>'"),
        ({"role": "user", "content": [{"type": "video"}]}, "holds video"),
        ({"role": "user"}, "has not the form of one"),
        ({"content": "x"}, "has not the form of one"),
        ({"role": "user", "content": [{"type": "text"}]}, "has not the form of one"),
        ({"role": "user", "content": None}, "has not the form of one"),
    ],
)
def test_a_users_text_is_never_a_picture_and_a_message_has_its_form(processor, message, said):
    for tokenize in (False, True):
        with pytest.raises(DataError, match=said):
            processor.apply_chat_template([message], tokenize=tokenize)


@pytest.mark.parametrize("which", ["processor", "chat"])
def test_it_is_saved_as_json_and_comes_back(which, request, tmp_path):
    model = request.getfixturevalue(which)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".jinja"}
    (tmp_path / "config.json").write_text('{"model_type": "kit-stitched"}')  # a model in the same folder
    again = StitchedProcessor.from_pretrained(tmp_path)
    assert (again.image_token, again.image_token_id, again.image_tokens) == ("<file_sep>", model.image_token_id, 3)
    assert again.chat_template == model.chat_template
    options = {"tokenize": True, "return_tensors": "pt", "images": [RED]}
    before, after = (one.apply_chat_template(TALK, **options) for one in (model, again))
    assert all(torch.equal(before[name], after[name]) for name in ("input_ids", "attention_mask", "pixel_values"))


def test_a_template_of_ones_own_is_saved_too(tmp_path):
    model = StitchedProcessor(smol_tokenizer(), Pixels(PIXELS), image_tokens=3)
    model.chat_template = "{% for message in messages %}{{ message['content'] }}!{% endfor %}"
    model.save_pretrained(tmp_path)
    assert StitchedProcessor.from_pretrained(tmp_path).apply_chat_template([ASKED]) == "<file_sep>What colour?!"


@pytest.mark.parametrize("damage", ["", "{}", '{"image_tokens": 3, "pixels": {"transformers": {}}}', None])
def test_a_folder_without_a_whole_one_is_an_error(processor, damage, tmp_path):
    processor.save_pretrained(tmp_path)
    if damage is None:
        (tmp_path / CONFIG).unlink()
    else:
        (tmp_path / CONFIG).write_text(damage)
    with pytest.raises(ModelError, match=r"(?s)holds no StitchedProcessor that can be read.*save it again"):
        StitchedProcessor.from_pretrained(tmp_path)


def test_tokenizers_that_add_their_own_beginning_add_it_once():
    llama = tokenizer_of(
        bytes_=False, begins=True, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    model = StitchedProcessor(llama, Pixels(PIXELS), image_tokens=2)
    rendered = model.apply_chat_template([ASKED], add_generation_prompt=True)
    assert rendered.startswith("<s>")
    for text in (rendered, rendered.removeprefix("<s>")):
        assert model(text, [RED])["input_ids"][0].count(llama.bos_token_id) == 1


def test_the_image_token_is_a_spare_one_or_a_new_one():
    assert spare_token(tokenizer_of("<file_sep>", "<|image_pad|>", eos_token="<|im_end|>")) == "<|image_pad|>"
    plain = tokenizer_of("<other>", eos_token="<|im_end|>")
    size = len(plain)
    assert StitchedProcessor(plain, Pixels(PIXELS), image_tokens=1).image_token_id == size
    assert plain("a<image>b")["input_ids"].count(size) == 1
    in_use = tokenizer_of(eos_token="<file_sep>")  # it ends texts, so it cannot stand for pictures
    assert spare_token(in_use) == "<image>"


def test_all_faults_of_the_settings_are_said_at_once():
    plain = tokenizer_of(eos_token="<|im_end|>")
    with pytest.raises(ModelError) as caught:
        StitchedProcessor(plain, Pixels(PIXELS), image_tokens=0, template="chat", image_token="<|none|>")
    assert [fault.where for fault in caught.value.faults] == ["template", "image_tokens", "image_token"]
    with pytest.raises(ModelError, match=r"'plane' is unknown\. Did you mean 'plain'"):
        StitchedProcessor(plain, Pixels(PIXELS), image_tokens=1, template="plane")
    assert json.loads(Pixels(PIXELS).to_json_string()) == PIXELS

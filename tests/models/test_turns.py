"""Where the assistant speaks, found in every architecture's own chat template."""

import dataclasses

import pytest
from dual_encoders import noise_pictures
from tiny_models import load_tiny

from kit.data.rows import Conversation, ImageText, Message, Question
from kit.errors import DataError, ModelError
from kit.models.chat import Chat
from kit.models.turns import IGNORED, Form, as_conversation

PICTURE = noise_pictures(1)[0]
ASKED = Question("q", PICTURE, "What colour?", "red")
TALK = (
    Message("user", "Describe it."), Message("assistant", "A smiling face."),
    Message("user", "What colour?"), Message("assistant", "green"),
)  # fmt: skip
# What each template writes between question and answer, and what ends the answer.
FORMS = {
    "smolvlm": ("Assistant:", " red", "<end_of_utterance>", "\n"),
    "idefics3": ("Assistant:", " red", "<end_of_utterance>", "\n"),
    "qwen2_5_vl": ("<|im_start|>assistant\n", "red", "<|im_end|>", "\n"),
    "qwen3_vl": ("<|im_start|>assistant\n", "red", "<|im_end|>", "\n"),
    "llava": ("ASSISTANT:", " red", "</s>", ""),
    "paligemma": ("\n", "red", "<eos>", ""),
    "gemma3": ("<start_of_turn>model\n", "red", "<end_of_turn>", "\n"),
}


def spoken(model, labels):
    """The stretches of text that labels cover."""
    stretches = [[]]
    for label in labels:
        if label != IGNORED:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [model.processor.tokenizer.decode(stretch) for stretch in stretches if stretch]


def test_labels_are_the_answer_and_what_ends_it(tiny_model):
    before, answer, end, after = FORMS[tiny_model.model.config.model_type]
    turns = Chat.of(tiny_model).form.turns(ASKED)
    assert spoken(tiny_model, turns.labels) == [answer + end]
    assert tiny_model.processor.tokenizer.decode(turns.ids).endswith(before + answer + end + after)
    prompt = Chat.of(tiny_model).form.turns(Conversation("q", PICTURE, (Message("user", "What colour?"),)), ask=True)
    assert turns.ids[: turns.first] == prompt.ids, "the answer follows what the model will be asked with"
    assert set(prompt.labels) == {IGNORED}


def test_every_answer_of_a_conversation_is_learnt(tiny_model):
    name = tiny_model.model.config.model_type
    talk = Conversation("c", PICTURE, TALK)
    if name == "paligemma":
        with pytest.raises(DataError, match=r"c: this model takes one question and one answer"):
            Chat.of(tiny_model).form.turns(talk)
        return
    first, last = spoken(tiny_model, Chat.of(tiny_model).form.turns(talk).labels)
    _, answer, end, _ = FORMS[name]
    space = answer.removesuffix("red")
    assert last == f"{space}green{end}"
    assert first == (f"{space}A smiling face." if name == "llava" else f"{space}A smiling face.{end}")


def test_a_system_message_and_no_picture(tiny_model):
    name = tiny_model.model.config.model_type
    messages = (Message("system", "Be brief."), *TALK[:2])
    if name in {"paligemma", "llava"}:  # LLaVA-1.5's template writes a system message without its role
        return
    turns = Chat.of(tiny_model).form.turns(Conversation("s", None, messages))
    assert len(spoken(tiny_model, turns.labels)) == 1
    assert "Be brief." in tiny_model.processor.tokenizer.decode(turns.ids)
    assert Chat.of(tiny_model).form.placeholder_id not in turns.ids


def test_paligemmas_labels_are_its_processors_own(tiny_folders):
    model = load_tiny(tiny_folders("paligemma"))
    theirs = model.processor(text=["<image>What colour?"], images=[PICTURE.open()], suffix=["red"], return_tensors="pt")
    ours = Chat.of(model).encode(ASKED)
    for name, tensor in theirs.items():
        assert ours[name].tolist() == tensor.tolist(), name


def _with_template(model, template):
    processor = type("Other", (), {"__call__": None})()
    processor.tokenizer, processor.chat_template = model.processor.tokenizer, template
    processor.tokenizer.chat_template = template
    processor.image_token = model.processor.image_token
    processor.apply_chat_template = model.processor.apply_chat_template
    return Form(processor, frozenset({model.processor.tokenizer.eos_token_id}))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if add_generation_prompt %}think: {% endif %}{{ messages | length }}", "its prompt is not what stands"),
        ("{{ raise_exception('roles must alternate') }}", "the chat template refuses it: roles must alternate"),
        ("{{ messages[7].role }}", "the chat template refuses it"),
    ],
)
def test_a_template_that_hides_the_answer_is_refused(tiny_folders, template, said):
    form = _with_template(load_tiny(tiny_folders("smolvlm")), template)
    with pytest.raises(DataError, match=said) as caught:
        form.turns(ASKED)
    assert caught.value.faults[0].where == "q"


def test_a_model_without_a_form_says_so(tiny_folders):
    form = _with_template(load_tiny(tiny_folders("smolvlm")), None)
    with pytest.raises(ModelError, match=r"(?s)Other: has no chat template.*Fix: set processor.chat_template"):
        form.turns(ASKED)


def test_the_tokenizers_template_serves_where_the_processor_has_none(tiny_folders):
    model = load_tiny(tiny_folders("smolvlm"))
    expected = Chat.of(model).form.turns(ASKED)
    model.processor.tokenizer.chat_template, model.processor.chat_template = model.processor.chat_template, None
    assert Chat.of(model).form.turns(ASKED) == expected


def test_rows_become_conversations():
    assert as_conversation(ASKED).messages == (Message("user", "What colour?"), Message("assistant", "red"))
    assert as_conversation(talk := Conversation("c", None, TALK)) is talk
    with pytest.raises(DataError, match=r"i: a ImageText is neither a question nor a conversation"):
        as_conversation(ImageText("i", PICTURE, "a dog"))
    assert as_conversation(dataclasses.replace(ASKED, id="other")).id == "other"

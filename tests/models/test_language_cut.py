"""A cut model is the whole model: losses, gradients, what is computed once, and what cannot be cut."""

import dataclasses

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import LAYERS, smol_tokenizer, tiny_stitch
from tiny_models import LANGUAGE, load_tiny

from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.data.rows import Conversation, Message, Question
from kit.errors import DataError, ModelError
from kit.models.activations import ActivationStore
from kit.models.chat import Chat
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.training.tail_loss import TailLoss

PICTURES = noise_pictures(3)
ROWS = [
    Question("a", PICTURES[0], "What colour is the shape?", "red"),
    Question("b", PICTURES[1], "Is there a triangle?", "no, there is none"),
    Question("c", PICTURES[0], "Is there a triangle?", "yes"),
    Conversation("d", None, (Message("user", "Say yes"), Message("assistant", "yes"))),
    Conversation(
        "e",
        PICTURES[2],
        (
            Message("user", "What does it show, in a few words?"),
            Message("assistant", "a smiling face with hearts"),
            Message("user", "Which colour?"),
            Message("assistant", "teal"),
        ),
    ),
    Question("f", PICTURES[0], "Does it show a circle or a rectangle?", "rectangle"),
]
LORA = {"rank": 3, "alpha": 12.0}


def write_qwen(folder):
    """Save a tiny random Qwen2, whose projections have biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = smol_tokenizer()
    values = {**LANGUAGE, "num_hidden_layers": LAYERS, "vocab_size": len(tokenizer), "tie_word_embeddings": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Qwen2ForCausalLM(Qwen2Config(**values, eos_token_id=tokenizer.eos_token_id))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def languages(tiny_language, tmp_path_factory):
    return {"llama": tiny_language, "qwen2": write_qwen(tmp_path_factory.mktemp("qwen") / "qwen2")}


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "store")


def adapted(vision, language, *, prompts=False, lora=LORA, **options):
    """A stitched model whose adapters change it from the start, so that every gradient counts."""
    model = tiny_stitch(vision, language, prompted=prompts, **options)
    if prompts:
        add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
        model.projector.requires_grad_(True)
    else:
        adapt_language(model, **lora)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.language.named_parameters():
        if parameter.requires_grad and "norm" not in name and "lora_A" not in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def drawn(packs):
    return packs.draw(np.arange(len(packs)))


def gradients(model, loss):
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    found = torch.autograd.grad(loss, [one for _, one in named], allow_unused=True)
    return {name: one for (name, _), one in zip(named, found, strict=True)}


CASES = {
    "prefix": {"entry_layer": 0},
    "prefix, chat": {"entry_layer": 0, "template": "chat"},
    "mid-layer": {"entry_layer": 2},
    "mid-layer, chat, mlp": {"entry_layer": 1, "template": "chat", "projector": "mlp"},
    "some matrices": {"entry_layer": 1, "lora": {**LORA, "targets": ("q_proj", "up_proj"), "layers": [2, 3]}},
    "ranks": {"entry_layer": 2, "lora": {**LORA, "rank_pattern": {"up_proj": 5, "k_proj": 1}, "rslora": True}},
    "projector": {"entry_layer": 2, "lora": {"rank": 0}},
    "prompts": {"prompts": True},
    "prompts, chat": {"prompts": True, "template": "chat"},
}  # fmt: skip
PLAIN = {
    "DoRA": {"entry_layer": 2, "lora": {**LORA, "dora": True}},
    "Qwen2": {"language": "qwen2", "entry_layer": 2},
    "Qwen2, prefix, chat": {"language": "qwen2", "entry_layer": 0, "template": "chat"},
    "Qwen2, prompts": {"language": "qwen2", "prompts": True},
}


@pytest.mark.parametrize("case", [*CASES, *PLAIN])
def test_loss_and_gradients_are_the_whole_models(tiny_vision, languages, store, case):
    options = {**CASES, **PLAIN}[case]
    model = adapted(tiny_vision, languages[options.get("language", "llama")],
                    **{name: value for name, value in options.items() if name != "language"})  # fmt: skip
    cut = LanguageCut(model, store)
    assert cut.cut == (2 if options.get("prompts") else options["entry_layer"])
    packs = cut.packs(ROWS)
    assert [picture for picture, _ in packs.groups] == [0, 1, -1, 2]
    model.projector.calibrate(packs.features.all())
    tail = LanguageTail(cut)
    assert tail.quick is (case in CASES)
    whole = model.model(**Chat.of(model).batch(ROWS)).loss
    loss = TailLoss()(tail, drawn(packs))
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    expected, found = gradients(model.model, whole), gradients(model.model, loss)
    assert len(expected) >= 4
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def test_what_the_tail_trains_is_what_the_model_trains(tiny_vision, tiny_language, store):
    model = adapted(tiny_vision, tiny_language, entry_layer=2)
    tail = LanguageTail(LanguageCut(model, store))
    ours = {id(one) for one in tail.parameters() if one.requires_grad}
    assert ours == {id(one) for one in model.model.parameters() if one.requires_grad}


def test_dropout_of_adapters_is_on_in_training_alone(tiny_vision, tiny_language, store):
    cut = LanguageCut(adapted(tiny_vision, tiny_language, entry_layer=2, lora={**LORA, "dropout": 0.5}), store)
    tail, batch = LanguageTail(cut), drawn(cut.packs(ROWS))
    still = [TailLoss()(tail.train(mode), batch).item() for mode in (False, False, True, True, False)]
    assert still[0] == still[1] == still[4]
    assert len(set(still)) == 3


def test_rows_in_other_company_have_the_same_loss(tiny_vision, tiny_language, store):
    cut = LanguageCut(adapted(tiny_vision, tiny_language, entry_layer=2), store)
    tail = LanguageTail(cut)

    def total(packs, indices):
        batch = packs.draw(np.array(indices))
        return TailLoss()(tail, batch).item() * TailLoss().count(batch)

    packs = cut.packs(ROWS)
    one_by_one = [total(packs, [place]) for place in range(len(packs))]
    assert total(packs, [0, 1, 2, 3]) == pytest.approx(sum(one_by_one), rel=1e-5)
    assert total(packs, [3, 1]) == pytest.approx(one_by_one[3] + one_by_one[1], rel=1e-5)
    alone = cut.packs(ROWS, per_picture=1)
    assert len(alone) == len(ROWS)
    assert total(alone, range(6)) == pytest.approx(sum(one_by_one), rel=1e-5)
    no_pictures = cut.packs([ROWS[3]])
    assert no_pictures.features is None
    assert total(no_pictures, [0]) == pytest.approx(one_by_one[2], rel=1e-5)


def test_a_bfloat16_model_is_cut_too(tiny_vision, languages, store):
    for language in languages.values():
        exact = adapted(tiny_vision, language, entry_layer=2)
        rough = adapted(tiny_vision, language, entry_layer=2, dtype="bfloat16")
        losses = []
        for model, dtypes in ((exact, [torch.float32]), (rough, [torch.float32, torch.bfloat16])):
            cut = LanguageCut(model, store)
            batch = drawn(cut.packs(ROWS))
            losses += [TailLoss()(LanguageTail(cut, dtype=dtype), batch).item() for dtype in dtypes]
        assert losses[1:] == pytest.approx([losses[0]] * 2, rel=0.03)
        assert losses[0] not in losses[1:]


def test_what_is_below_the_cut_is_computed_once(tiny_vision, tiny_language, store):
    def packs(**options):
        return LanguageCut(adapted(tiny_vision, tiny_language, entry_layer=2, **options), store).packs(ROWS)

    first, again = packs(), packs(lora={**LORA, "rank": 2})
    assert first.texts.hidden.computed == len(first.texts.lengths) == 6
    assert (again.texts.hidden.computed, again.features.computed) == (0, 0)
    assert again.digest() == first.digest()
    assert torch.equal(drawn(again).hidden, drawn(first).hidden)
    more = LanguageCut(adapted(tiny_vision, tiny_language, entry_layer=2), store)
    more = more.packs([*ROWS, dataclasses.replace(ROWS[0], id="g", question="Which?")])
    assert more.texts.hidden.computed == 1
    assert more.digest() != first.digest()


def test_another_weight_below_the_cut_computes_again_and_one_above_does_not(tiny_vision, tiny_language, store):
    def computed(name, **options):
        model = adapted(tiny_vision, tiny_language, entry_layer=options.pop("entry_layer", 2), **options)
        if name:
            model.language.get_submodule(f"base_model.model.model.{name}").weight.data[0, 0] += 1e-3
        return LanguageCut(model, store).packs(ROWS).texts.hidden.computed

    assert computed("") == 6
    assert computed("layers.2.mlp.up_proj.base_layer") == 0
    assert computed("layers.1.mlp.up_proj") == 6
    assert computed("embed_tokens") == 6
    assert computed("", entry_layer=1) == 6
    assert computed("", entry_layer=1, grid=1) == 0, "pictures enter above"


def test_half_an_answer_is_not_kept(tiny_vision, tiny_language, store):
    cut = LanguageCut(adapted(tiny_vision, tiny_language, entry_layer=2), store)
    asked = [(4, 5, 6), (7, 8), (4, 5, 6)]
    kept = cut.prompts([None, PICTURES[0], PICTURES[1]], asked)
    size = store.size_bytes()
    fresh = cut.prompts([None, PICTURES[0], PICTURES[1]], asked, keep=False)
    assert (fresh.texts.hidden.computed, store.size_bytes()) == (2, size)
    assert torch.equal(drawn(fresh).hidden, drawn(kept).hidden)


def trained(name):
    def change(model):
        model.model.get_submodule(name).requires_grad_(True)

    return change


def test_what_cannot_be_cut_is_said(tiny_vision, tiny_language, tiny_folders):
    def said(match, change=lambda model: None, **options):
        model = tiny_stitch(tiny_vision, tiny_language, **options)
        change(model)
        with pytest.raises(ModelError, match=match):
            LanguageCut(model)

    low = r"(?s)layer 2, where the picture enters, is above the lowest adapter, in layer 1.*adapt layers from 2 on"
    said(low, lambda model: adapt_language(model, rank=2, layers=[1, 3]), entry_layer=2)
    said(low, trained("language_model.model.layers.1"), entry_layer=2)
    said("no layer has adaption prompts", prompted=True)
    said(r"embed_tokens.weight is trained, and is computed in advance", trained("language_model.model.embed_tokens"))
    said(r"vision_tower.*is trained, and is computed in advance \(\d+ such\)", trained("vision_tower"))
    said(
        r"(?s)cut: language.*embed_tokens.*is trained.*cut: layer 2.*above the lowest adapter, in layer 0",
        trained("language_model"), entry_layer=2,
    )  # fmt: skip
    hub = load_tiny(tiny_folders("smolvlm"))
    with pytest.raises(ModelError, match=r"(?s)is not stitched, so it cannot be cut.*Fix: train it whole"):
        LanguageCut(hub)


def asked(*messages, picture=PICTURES[0]):
    return Conversation("bad", picture, tuple(Message(*message) for message in messages))


USER, ASSISTANT = ("user", "What?"), ("assistant", "red")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (asked(("system", "Be brief."), USER, ASSISTANT), "does not begin as the chat template's other conversations"),
        (asked(("user", "What <file_sep>?"), ASSISTANT), "its text holds '<file_sep>', which stands for a picture"),
        (asked(("user", "What <file_sep>?"), ASSISTANT, picture=None), "its text holds '<file_sep>'"),
        (asked(("user", ""), ASSISTANT), "has no question before its answer"),
        (asked(USER), "has no question before its answer, or no answer"),
        (asked(("user", "red " * 260), ASSISTANT), r"has \d+ tokens beside its picture's; the model reads 256 in all"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_said_all_at_once(tiny_vision, tiny_language, store, row, said):
    template = "chat" if row.messages[0].role == "system" else "plain"
    cut = LanguageCut(tiny_stitch(tiny_vision, tiny_language, template=template), store)
    rows = [*ROWS, row, *[dataclasses.replace(row, id=f"bad {number}") for number in range(7)]]
    with pytest.raises(DataError, match=rf"rows: 8 of 14: .*{said}.* \(bad, bad 0, bad 1, bad 2, bad 3 …\)"):
        cut.packs(rows)
    two = [row, dataclasses.replace(row, messages=(Message("user", "Which?"),))]
    if said != "has no question before its answer, or no answer":
        with pytest.raises(DataError, match=rf"(?s){said}.*no answer"):
            cut.packs(two)


def test_no_rows_and_no_question_are_said(tiny_vision, tiny_language, store):
    cut = LanguageCut(tiny_stitch(tiny_vision, tiny_language), store)
    with pytest.raises(DataError, match="there are no rows"):
        cut.packs([])
    with pytest.raises(DataError, match="per_picture must be at least 1, got 0"):
        cut.packs(ROWS, per_picture=0)
    with pytest.raises(DataError, match="' ' asks nothing"):
        cut.question(" ", seen=True)


def test_a_template_that_shows_no_picture_is_said(tiny_vision, tiny_language, store):
    model = tiny_stitch(tiny_vision, tiny_language)
    model.processor.chat_template = model.processor.chat_template.replace("| trim", "| replace('<file_sep>', '')")
    with pytest.raises(DataError, match="6 of 6: the chat template leaves the picture out"):
        LanguageCut(model, store).packs(ROWS)

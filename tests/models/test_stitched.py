"""Stitched models: the picture enters where it is said to, caches change nothing, and plain PEFT gives the same."""

import copy

import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.errors import ModelError
from kit.models.chat import Chat
from kit.models.stitched import StitchedModel
from kit.models.turns import IGNORED
from kit.training.recompute import recompute_activations

PICTURES = noise_pictures(3)
QUESTIONS = ["What colour is the shape?", "red?", "Is there a triangle in the picture, or a circle?", "Yes or no?"]
MIXED = [PICTURES[0], None, PICTURES[1], PICTURES[0]]
WAYS = {"prefix": {"entry_layer": 0}, "mid-layer": {"entry_layer": 2}, "prompted": {"prompted": True}}


def woken(language, pattern="lora_B", std=0.2):
    """Give adapters weights that change the model."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in language.named_parameters():
        if pattern in name:
            parameter.data.normal_(0, std, generator=generator)


def stitch(vision, language, way):
    model = tiny_stitch(vision, language, **WAYS[way])
    if way == "prompted":
        add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
        for name in ("gate", ".up", "static"):
            woken(model.language, name, 0.5)
        model.projector.scale *= 10  # or a fresh one is hardly seen
    return model


@pytest.fixture(scope="module")
def models(tiny_vision, tiny_language):
    """A model of each way, not to be changed."""
    return {way: stitch(tiny_vision, tiny_language, way) for way in WAYS}


@pytest.fixture(params=WAYS)
def model(request, models):
    return models[request.param]


@torch.no_grad()
def logits(model, inputs, **more):
    return model.model(**inputs, **more).logits


def test_the_loss_is_the_shifted_cross_entropy_of_answers(model):
    rows = Chat.of(model).prompts(MIXED, QUESTIONS)
    labels = rows["input_ids"].masked_fill(torch.arange(rows["input_ids"].shape[1]) < 12, IGNORED)
    with torch.no_grad():
        out = model.model(**rows, labels=labels)
    wanted = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(out.loss, wanted)
    assert set(out) == {"loss", "logits"}
    last = logits(model, rows, logits_to_keep=2)
    torch.testing.assert_close(last, out.logits[:, -2:])


def test_what_stands_beside_a_row_changes_nothing(model):
    """Padding, rows without a picture and other rows' pictures, against each row alone."""
    chat = Chat.of(model)
    together = logits(model, chat.prompts(MIXED, QUESTIONS))[:, -1]
    for row, (picture, question) in enumerate(zip(MIXED, QUESTIONS, strict=True)):
        alone = logits(model, chat.prompts([picture], [question]))[0, -1]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)
    other = logits(model, chat.prompts([PICTURES[2], None, *MIXED[2:]], QUESTIONS))[:, -1]
    assert not torch.allclose(other[0], together[0], atol=1e-3), "the picture matters"
    torch.testing.assert_close(other[1:], together[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_generating_with_caches_is_generating_without(model, options):
    rows = Chat.of(model).prompts(MIXED, QUESTIONS)
    asked = {
        "max_new_tokens": 5,
        "do_sample": False,
        "output_scores": True,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    cached, plain = (model.model.generate(**rows, **asked, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, other in zip(cached.scores, plain.scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    if not options:
        seen = rows["input_ids"].shape[1]
        full = {**rows, "input_ids": cached.sequences[:, :-1]}
        full["attention_mask"] = F.pad(rows["attention_mask"], (0, cached.sequences.shape[1] - 1 - seen), value=1)
        expected = logits(model, full)[0, seen - 1 :].log_softmax(-1)
        found = torch.stack(cached.logits)[:, 0].log_softmax(-1)  # before the image token is ruled out
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_a_picture_it_is_the_plain_language_model(models, tiny_language):
    plain = AutoModelForCausalLM.from_pretrained(tiny_language)
    for way in ("prefix", "mid-layer"):
        rows = Chat.of(models[way]).prompts([None, None], QUESTIONS[:2])
        with torch.no_grad():
            expected = plain(**rows, position_ids=(rows["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits
        found = logits(models[way], rows)
        torch.testing.assert_close(found[:, -1], expected[:, -1], rtol=1e-4, atol=1e-4)


def test_switching_peft_off_gives_the_plain_model_back(tiny_vision, tiny_language, models):
    model = adapt_language(tiny_stitch(tiny_vision, tiny_language, entry_layer=2), rank=2)
    rows = Chat.of(model).prompts(MIXED, QUESTIONS)
    torch.testing.assert_close(logits(model, rows), logits(models["mid-layer"], rows))
    woken(model.language)
    assert not torch.allclose(logits(model, rows), logits(models["mid-layer"], rows), atol=1e-2)
    with model.language.disable_adapter():
        torch.testing.assert_close(logits(model, rows), logits(models["mid-layer"], rows))


def test_with_prefix_entry_plain_peft_on_the_plain_base_gives_the_same_logits(tiny_vision, tiny_language, tmp_path):
    from peft import PeftModel

    model = adapt_language(tiny_stitch(tiny_vision, tiny_language, entry_layer=0), rank=2)
    woken(model.language)
    model.language.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_language), tmp_path)
    rows = Chat.of(model).prompts(MIXED, QUESTIONS)
    here = rows["input_ids"] == model.model.config.image_token_id
    with torch.no_grad():
        embedded = plain.get_input_embeddings()(rows["input_ids"])
        embedded[here] = model.model.project(rows["pixel_values"]).flatten(0, 1)
        places = (rows["attention_mask"].cumsum(1) - 1).clamp(min=0)
        expected = plain(inputs_embeds=embedded, attention_mask=rows["attention_mask"], position_ids=places).logits
    found = logits(model, rows)
    seen = rows["attention_mask"].bool()
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["prefix", "mid-layer"])
def test_saved_and_loaded_it_is_the_same_model(models, tmp_path, way):
    rows = Chat.of(models[way]).prompts(MIXED, QUESTIONS)
    models[way].model.save_pretrained(tmp_path)
    again = StitchedModel.from_pretrained(tmp_path)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(**rows).logits, logits(models[way], rows))


def test_with_adapters_on_it_it_is_not_saved_without_them(models, tiny_vision, tiny_language, tmp_path):
    adapted = adapt_language(tiny_stitch(tiny_vision, tiny_language), rank=2)
    for model in (models["prompted"], adapted):
        with pytest.raises(ModelError, match=r"(?s)StitchedModel: has adapters on it.*Fix: save it with save_bundle"):
            model.model.save_pretrained(tmp_path)
    merged = adapted.model.language_model.merge_and_unload()
    adapted.model.language_model = merged
    adapted.model.save_pretrained(tmp_path)
    rows = Chat.of(adapted).prompts(MIXED, QUESTIONS)
    with torch.no_grad():
        torch.testing.assert_close(StitchedModel.from_pretrained(tmp_path)(**rows).logits, logits(adapted, rows))


@pytest.mark.parametrize("way", WAYS)
def test_computing_activations_again_gives_the_same_gradients(tiny_vision, tiny_language, way):
    model = stitch(tiny_vision, tiny_language, way)
    model.projector.requires_grad_(True)
    rows = Chat.of(model).prompts(MIXED, QUESTIONS)
    found = []
    for again in (False, True):
        recompute_activations(model.model, on=again)
        model.model.train().zero_grad()
        model.model(**rows, labels=rows["input_ids"]).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None})
    assert len(found[0]) >= 4
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_pictures_and_places_that_do_not_match_are_said(model):
    rows = Chat.of(model).prompts(MIXED, QUESTIONS)
    pixels = rows["pixel_values"]
    for wrong in (pixels[:2], torch.cat([pixels, pixels[:1]])):
        said = f"{len(wrong)} pictures for 3 rows with image tokens"
        with pytest.raises(ModelError, match=said):
            logits(model, {**rows, "pixel_values": wrong})
        with pytest.raises(ModelError, match=said):
            model.model.generate(**{**rows, "pixel_values": wrong})
    del rows["pixel_values"]
    with pytest.raises(ModelError, match=r"(?s)pixel_values: none is given.*Fix: give one picture to each row"):
        logits(model, rows)


def test_a_picture_that_was_cut_off_is_an_error(models):
    rows = Chat.of(models["prefix"]).prompts([PICTURES[0]], QUESTIONS[:1])
    cut = {name: rows[name][:, 2:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ModelError, match="input_ids: holds 3 image tokens in a row, and a picture has 4"):
        logits(models["prefix"], {**rows, **cut})


def test_what_was_read_is_not_read_again_for_the_next_word(model):
    rows = Chat.of(model).prompts(MIXED[:1], QUESTIONS[:1])
    read = []
    head = model.model.language_model.model.norm  # of all layers' output
    hook = head.register_forward_hook(lambda _, given, __: read.append(given[0].shape[1]))
    model.model.generate(**rows, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    hook.remove()
    assert read == [rows["input_ids"].shape[1], 1, 1, 1, 1]


def test_a_cache_by_hand_needs_to_know_where_the_picture_was(model):
    rows = Chat.of(model).prompts(MIXED[:1], QUESTIONS[:1])
    with torch.no_grad():
        seen = model.model(**rows, use_cache=True)
        token = seen.logits[:, -1:].argmax(-1)
        mask = F.pad(rows["attention_mask"], (0, 1), value=1)
        past = copy.deepcopy(seen.to_tuple()[-1])
        step = {"input_ids": token, "attention_mask": mask, "past_key_values": past}
        with pytest.raises(ModelError, match=r"(?s)image_mask: must be given for all .* Fix: give it, or use generate"):
            model.model(**step)
        where = F.pad(rows["input_ids"] == model.model.config.image_token_id, (0, 1))
        shown = {"picture_tokens": model.model.project(rows["pixel_values"])}
        found = model.model(**step, image_mask=where, **shown).logits
        whole = {**rows, "input_ids": torch.cat([rows["input_ids"], token], 1), "attention_mask": mask}
    torch.testing.assert_close(found, logits(model, whole)[:, -1:], rtol=1e-4, atol=1e-4)

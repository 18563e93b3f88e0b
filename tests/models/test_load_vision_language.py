"""Vision-language models by one source string: what each option does, and everything that is wrong at once."""

import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import LAYERS, smol_tokenizer, tiny_stitch, write_language
from tiny_models import LANGUAGE

from kit.errors import ModelError
from kit.models.chat import Chat, answer
from kit.models.language import load_language
from kit.models.load_vision_language import ADAPTED, load_vision_language
from kit.parts.reference import folder_digest


@pytest.fixture(scope="module")
def source(tiny_vision, tiny_language):
    return f"stitch:local-dir:{tiny_vision}+local-dir:{tiny_language}"


def test_a_stitch_is_frozen_in_evaluation_and_says_what_it_is_made_of(source, tiny_vision, tiny_language):
    model = load_vision_language(source, device="cpu")
    assert not model.model.training
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert [base.digest for base in model.bases] == [folder_digest(tiny_vision), folder_digest(tiny_language)]
    assert model.name == source
    assert model.device == torch.device("cpu")
    parts = (model.language, model.vision, model.projector)
    assert parts == (model.model.language_model, model.model.vision_tower, model.model.projector)
    assert model.model.config.entry_layer == max(0, LAYERS - ADAPTED) == 0
    assert model.model.generation_config.pad_token_id is not None


def test_each_option_does_what_it_says(source):
    def loaded(**options):
        return load_vision_language(source, device="cpu", **options)

    plain = loaded()
    assert (plain.vision.tokens, plain.processor.image_tokens, len(plain.projector.layers)) == (4, 4, 1)
    assert loaded(grid=3).processor.image_tokens == loaded(grid=3).model.config.projector["tokens"] == 9
    assert loaded(entry_layer=3).model.config.entry_layer == 3
    prompted = loaded(prompted=True, grid=3)
    assert (prompted.model.config.prompted, prompted.processor.image_tokens) == (True, 1)
    assert prompted.model.config.projector["tokens"] == 9
    wide = loaded(projector="mlp", hidden=11)
    assert [layer.out_features for layer in wide.projector.layers[::2]] == [11, 64]
    assert loaded(template="chat").processor.template == "chat"
    assert not torch.equal(loaded(seed=1).projector.layers[0].weight, plain.projector.layers[0].weight)
    half = loaded(dtype="bfloat16")
    assert half.language.dtype == torch.bfloat16
    assert {one.dtype for one in half.projector.parameters()} == {torch.float32}
    assert len(answer(half, noise_pictures(1), ["What?"], max_new_tokens=2)) == 1


@pytest.mark.parametrize("entry", [0, 2])
def test_the_norm_is_the_median_of_text_tokens_there(source, tiny_language, entry):
    language, tokenizer = load_language(f"local-dir:{tiny_language}")
    norms = []
    for sentence in ("What is in this picture?", "A small red circle on a white ground.", "Is there a cat? No."):
        out = language(torch.tensor([tokenizer(sentence)["input_ids"]]), output_hidden_states=True)
        norms += out.hidden_states[entry][0, 1:].norm(dim=-1).tolist()
    found = load_vision_language(source, device="cpu", entry_layer=entry).model.config.projector["norm"]
    assert found == pytest.approx(float(torch.tensor(norms).median()), rel=1e-5)
    if not entry:
        assert load_vision_language(source, device="cpu", prompted=True).model.config.projector["norm"] == found


def test_a_tokenizer_without_a_spare_token_needs_no_row_of_embeddings(tiny_vision, tmp_path):
    folder = write_language(tmp_path / "llama", vocab_size=len(smol_tokenizer()) - 1)
    state = (folder / "tokenizer.json").read_text()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<file_sep>", "plain_word")
        (folder / name).write_text(text)
    assert state.count("<file_sep>") == 1
    model = tiny_stitch(tiny_vision, folder, entry_layer=2)
    assert model.processor.image_token == "<image>"
    assert model.model.config.image_token_id >= model.language.config.vocab_size
    pictures = noise_pictures(2)
    said = answer(model, [*pictures, None], ["What?"] * 3, max_new_tokens=3)
    assert len(said) == 3
    rows = Chat.of(model).prompts(pictures, ["What?"] * 2)
    first, second = model.model(**rows).logits[:, -1]
    assert not torch.equal(first, second)


def test_a_folder_is_a_model_of_the_hub(tiny_folders):
    folder = tiny_folders("smolvlm")
    model = load_vision_language(f"local-dir:{folder.name}", base=folder.parent, device="cpu", dtype="bfloat16")
    assert model.model.config.model_type == "smolvlm"
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert {one.dtype for one in model.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"gird": 3, "dtype": "float", "rank": 4},
            r"(?s)has no option 'gird'. Did you mean 'grid'\?.*Options: backend, .*'rank'.*dtype: 'float' is unknown",
        ),
        (
            {"grid": 0, "entry_layer": -1, "projector": "liner", "template": "chatt"},
            r"(?s)grid: must be .* at least 1, got 0.*entry_layer: must be .* at least 0, got -1.*'chat'\?.*'linear'\?",
        ),
        ({"grid": True, "entry_layer": 1.0}, r"(?s)grid: must be .*got True.*entry_layer: must be .*got 1.0"),
        ({"prompted": True, "entry_layer": 2}, "entry_layer: has no meaning with prompted=True"),
        ({"hidden": 8}, "hidden: a linear projector has one layer"),
        ({"entry_layer": LAYERS}, r"entry_layer: 4, but local-dir:.* has layers 0 to 3"),
        ({"grid": 5}, "grid"),
    ],
)
def test_options_that_cannot_be_are_said_all_at_once(source, options, said):
    with pytest.raises(ModelError, match=said):
        load_vision_language(source, device="cpu", **options)


def test_a_bundle_is_sent_to_open_bundle(tmp_path):
    with pytest.raises(ModelError, match=r"(?s)is not loaded as a vision-language.*Fix: open it with open_bundle"):
        load_vision_language(f"bundle:{tmp_path}")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("smollm2-135m", r"(?s)is not loaded as a vision-language model.*Allowed: stitch:…, hf:…, local-dir:…"),
        ("stitch:efficientnet-lite0+minilm-l6", r"(?s)minilm-l6: is a text tower.*load_dual_encoder"),
    ],
)
def test_other_sources_are_refused(wrong, said):
    with pytest.raises(ModelError, match=said):
        load_vision_language(wrong)


def test_a_language_model_that_cannot_be_cut_is_refused(tiny_vision, tiny_language, tmp_path):
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(**{**LANGUAGE, "vocab_size": len(smol_tokenizer())}, logits_scaling=8.0)
    model = GraniteForCausalLM(config)
    model.save_pretrained(tmp_path / "granite")
    smol_tokenizer().save_pretrained(tmp_path / "granite")
    for options in ({"entry_layer": 1}, {"entry_layer": 0}, {"prompted": True}):
        with pytest.raises(ModelError, match="GraniteForCausalLM: computes more than its layers"):
            tiny_stitch(tiny_vision, tmp_path / "granite", **options)


@pytest.mark.weights
def test_the_packaged_parts_see_and_read():
    model = load_vision_language("stitch:efficientnet-lite0+smollm2-135m", device="cpu", template="chat")
    assert model.model.config.entry_layer == 22
    assert (model.vision.width, model.vision.tokens, model.processor.image_token) == (1776, 4, "<file_sep>")
    said = answer(model, [None], ["What is the capital of France?"], max_new_tokens=8)
    assert said == ["The capital of France is Paris."]
    projected = model.model.project(model.processor.image_processor([noise_pictures(1)[0].open()])["pixel_values"])
    assert projected.shape == (1, 4, 576)
    # Not calibrated yet, but a layer norm comes before the matrix.
    assert float(projected.norm(dim=-1).median()) == pytest.approx(model.model.config.projector["norm"], rel=0.3)

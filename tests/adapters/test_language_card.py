"""What a vision-language bundle's card says about opening it."""

import json

import pytest
import yaml

from kit.adapters.card import card
from kit.adapters.language_card import opening
from kit.manifest import Base, Manifest

LANGUAGE = {
    "packaged": Base("smollm2-135m", "b" * 64, "Apache-2.0", "SmolLM2"),
    "online": Base("hf:org/lm@main", "c" * 40, "mit"),
    "local": Base("local-dir:/somewhere/lm", "d" * 64),
}


def said(folder, *, base="packaged", entry=0, prompted=False, adapters=("adapter",), stitched=True):
    """Return the card's section on opening for such a bundle."""
    layout = {"layout": 1, "stitched": stitched, "adapters": dict.fromkeys(adapters, "model.language_model")}
    (folder / "vision_language.json").write_text(json.dumps({**layout, "prompts": {"layers": 2} if prompted else None}))
    config = {"entry_layer": entry, "prompted": prompted, "image_token_id": 5}
    (folder / "config.json").write_text(json.dumps(config))
    bases = (Base("efficientnet-lite0", "a" * 64), LANGUAGE[base]) if stitched else (LANGUAGE[base],)
    return opening(folder, Manifest("vision-language", "Seeing", bases))


def test_a_prefix_needs_peft_alone_and_a_middle_layer_needs_kit(tmp_path):
    prefix = said(tmp_path)
    assert "with pictures too: pass `inputs_embeds`" in prefix
    assert "embeddings of token 5" in prefix
    middle = said(tmp_path, entry=22)
    assert "logits for text without pictures. Seeing needs kit: the picture enters at decoder layer 22" in middle
    assert "inputs_embeds" not in middle
    for text in (prefix, middle):
        assert 'PeftModel.from_pretrained(base, "PATH/adapter")' in text
        assert 'kit.open_bundle("PATH").load()' in text


def test_adaption_prompts_need_kit_for_text_too(tmp_path):
    text = said(tmp_path, prompted=True, adapters=())
    assert "the adapted model needs kit, for text too" in text
    assert "PeftModel" not in text


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("packaged", ['from_pretrained("FOLDER")', "print(language_folder('smollm2-135m'))"]),
        ("online", [f'from_pretrained("org/lm", revision="{"c" * 40}")']),
        ("local", ['from_pretrained("/somewhere/lm")']),
    ],
)
def test_where_the_plain_language_model_is(tmp_path, base, words):
    text = said(tmp_path, base=base)
    assert all(word in text for word in words)
    assert ("language_folder" in text) == (base == "packaged")


def test_a_model_of_the_hub_says_where_its_adapter_goes(tmp_path):
    one = said(tmp_path, base="online", stitched=False)
    assert 'model.set_submodule("model.language_model", part)' in one
    assert f'from_pretrained("org/lm", revision="{"c" * 40}")' in one
    several = said(tmp_path, base="online", stitched=False, adapters=("adapter", "adapter_vision"))
    assert "kit puts every adapter in its place" in several
    assert "set_submodule" not in several


def test_the_whole_card(tmp_path):
    how = said(tmp_path)
    bases = (Base("efficientnet-lite0", "a" * 64, "Apache-2.0", "EfficientNet"), LANGUAGE["packaged"])
    text = card(Manifest("vision-language", "Seeing", bases), how)
    front = yaml.safe_load(text.split("---")[1])
    assert front == {
        "library_name": "multimodal-kit",
        "pipeline_tag": "image-text-to-text",
        "tags": ["multimodal-kit"],
        "license": "apache-2.0",
    }
    assert how in text
    assert "A vision-language model made with" in text
    assert "open_clip" not in text
    assert "- EfficientNet\n- SmolLM2" in text

"""Bundles of the Hub's vision-language models: adapters wherever they are, the projector, the processor, the commit."""

import json
import shutil

import pytest
import torch
from PIL import Image
from tiny_models import TINY

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.language import adapt_towers
from kit.adapters.lora import add_lora
from kit.data.picture import Picture
from kit.errors import BundleError
from kit.models.chat import Chat
from kit.models.load_vision_language import load_vision_language
from kit.models.vision_language import VisionLanguage


def picture():
    import io

    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return Picture("red", reader=file.getvalue)


def frozen(folder):
    return load_vision_language(f"local-dir:{folder}", device="cpu")


def stirred(model):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.2)
    return model


@torch.no_grad()
def logits(model):
    return model.model(**Chat.of(model).prompts([picture()], ["What colour?"])).logits


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_architecture_opens_as_it_was(name, tiny_folders, tmp_path):
    plain = logits(frozen(tiny_folders(name)))
    model = stirred(adapt_towers(frozen(tiny_folders(name)), rank=2, targets=TINY[name].targets))
    expected = logits(model)
    assert (expected - plain).abs().max() > 1e-3
    bundle = save_bundle(tmp_path / "bundle", model, name="Tiny")
    again = open_bundle(bundle.folder).load(device="cpu")
    assert torch.equal(logits(again), expected)
    assert type(again.processor) is type(model.processor)
    assert [base.source for base in bundle.manifest.bases] == [f"local-dir:{tiny_folders(name)}"]
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    child = save_bundle(tmp_path / "child", again, name="Child", parents={"Tiny": bundle.manifest.digest()})
    assert torch.equal(logits(child.load(device="cpu")), expected)


def inside(model):
    """Put LoRA on the language tower alone, where it stands in the model."""
    model.model.model.language_model = add_lora(model.language, rank=2, targets=("q_proj",))
    return model


@pytest.mark.parametrize("adapt", [adapt_towers, inside])
def test_peft_alone_puts_the_adapter_on_the_plain_model_as_the_card_says(adapt, tiny_folders, tmp_path):
    from peft import PeftModel

    model = stirred(adapt(frozen(tiny_folders("llava"))))
    bundle = save_bundle(tmp_path / "bundle", model, name="Tiny")
    card = (bundle.folder / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0].replace('"PATH', f'"{bundle.folder}')
    found: dict = {}
    exec(code, found)
    assert any(isinstance(module, PeftModel) for module in found["model"].modules())
    alone = VisionLanguage(found["model"].eval(), found["processor"], (), "")
    torch.testing.assert_close(logits(alone), logits(model))


def test_adapters_of_several_places(tiny_folders, tmp_path):
    model = inside(frozen(tiny_folders("llava")))
    model.model.model.vision_tower = add_lora(model.vision, rank=2, targets=("q_proj",))
    expected = logits(stirred(model))
    bundle = save_bundle(tmp_path / "bundle", model, name="x")
    assert torch.equal(logits(bundle.load(device="cpu")), expected)
    said = json.loads((bundle.folder / "vision_language.json").read_text())["adapters"]
    assert said == {"adapter": "model.language_model", "adapter_vision_tower": "model.vision_tower"}
    assert "kit puts every adapter in its place" in (bundle.folder / "README.md").read_text()


def test_the_projector_alone(tiny_folders, tmp_path):
    model = frozen(tiny_folders("smolvlm"))
    model.projector.requires_grad_(True)
    bundle = save_bundle(tmp_path / "bundle", stirred(model), name="x")
    assert torch.equal(logits(bundle.load(device="cpu")), logits(model))
    assert not (bundle.folder / "adapter").exists()


def test_another_base_is_refused(tiny_folders, tmp_path):
    folder = shutil.copytree(tiny_folders("llava"), tmp_path / "llava")
    bundle = save_bundle(tmp_path / "bundle", adapt_towers(frozen(folder), rank=2), name="x")
    shutil.rmtree(folder)
    shutil.copytree(tiny_folders("smolvlm"), folder)
    with pytest.raises(BundleError, match="is not what the bundle was trained on"):
        bundle.load(device="cpu")
    back = bundle.load(device="cpu", bases={f"local-dir:{folder}": f"local-dir:{tiny_folders('llava')}"})
    assert type(back.model.get_base_model()).__name__ == "LlavaForConditionalGeneration"

"""Dual encoders by source string, against what open_clip itself builds."""

import json
import shutil

import open_clip
import pytest
import torch
from dual_encoders import PREPROCESS, TINY, noise_pictures, write_clip

from kit.adapters.bundle import save_bundle
from kit.errors import BundleError, ModelError
from kit.manifest import Manifest, write
from kit.models.load import best_device, load_dual_encoder

NAME = "ViT-S-32-alt"  # the smallest that open_clip lists
TEXTS = ["a dog", "two cats"]


def embeddings(clip, transform, tokenizer):
    pixels = torch.stack([transform(picture.open()) for picture in noise_pictures(2)])
    with torch.no_grad():
        return clip.eval().encode_image(pixels, normalize=True), clip.encode_text(tokenizer(TEXTS), normalize=True)


def same(encoder, oracle):
    with torch.no_grad():
        pixels = torch.stack([encoder.preprocess(picture.open()) for picture in noise_pictures(2)])
        found = encoder.encode_image(pixels), encoder.encode_text(encoder.tokenize(TEXTS))
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, oracle, strict=True))


def test_a_checkpoint_loads_as_open_clip_loads_it_and_its_path_counts_from_base(tmp_path, monkeypatch):
    torch.manual_seed(0)
    clip, _, transform = open_clip.create_model_and_transforms(NAME)
    torch.save(clip.state_dict(), tmp_path / "mine.pt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    encoder = load_dual_encoder(f"open_clip:{NAME}/mine.pt", base=tmp_path, device="cpu")
    assert same(encoder, embeddings(clip, transform, open_clip.get_tokenizer(NAME)))
    (base,) = encoder.bases
    assert base.pinned


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    for name in ("a.pt", "b.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ModelError, match=r"(?s)open_clip cannot load it.*is a whole checkpoint of ViT-S-32-alt"):
            load_dual_encoder(f"open_clip:{NAME}/{name}", base=tmp_path)


def test_a_folder_loads_as_open_clip_loads_it(tiny, tiny_folder):
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_folder}")
    assert same(tiny, embeddings(clip, transform, open_clip.get_tokenizer(f"local-dir:{tiny_folder}")))
    assert not tiny.clip.training


def test_a_relative_folder_counts_from_base(tiny, tiny_folder):
    assert load_dual_encoder("local-dir:clip", base=tiny_folder.parent, device="cpu").digest() == tiny.digest()


@pytest.mark.weights
def test_a_native_text_tower_with_a_hugging_face_tokenizer_keeps_it(tmp_path, tiny_folder):
    from kit.parts.pull import get

    settings = {**TINY, "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "somewhere/on-the-hub"}}
    folder = write_clip(tmp_path / "clip", settings)
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_dual_encoder(f"local-dir:{folder}", device="cpu")
    for file in get("minilm-l6").glob("*"):
        if file.name.startswith(("token", "special", "vocab", "config")):
            shutil.copy(file, folder)
    encoder = load_dual_encoder(f"local-dir:{folder}", device="cpu")
    assert encoder.tokenize(["dog"])[0, :3].tolist() == [101, 3899, 102]
    again = save_bundle(tmp_path / "bundle", encoder, name="x").load()
    assert torch.equal(again.tokenize(TEXTS), encoder.tokenize(TEXTS))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("open_clip_config.json", b"{", "is no configuration that open_clip wrote"),
        ("open_clip_config.json", b"[]", "is no configuration that open_clip wrote"),
        ("open_clip_config.json", json.dumps({"model_cfg": {**TINY, "colour": 1}}).encode(), "open_clip cannot build"),
        ("open_clip_config.json", json.dumps({"model_cfg": {**TINY, "embed_dim": 9}}).encode(), "does not fit"),
        ("open_clip_model.safetensors", b"\x00" * 100, "cannot be read, or does not fit"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(tmp_path, tiny_folder, file, content, said):
    shutil.copytree(tiny_folder, tmp_path / "clip")
    (tmp_path / "clip" / file).write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        load_dual_encoder(f"local-dir:{tmp_path / 'clip'}")
    assert ("open_clip_model.safetensors" if "fit" in said else file) in caught.value.faults[0].where


def test_an_empty_folder_holds_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"holds no open_clip_config.json and open_clip_model.safetensors"):
        load_dual_encoder(f"local-dir:{tmp_path}")


def test_what_is_no_dual_encoder():
    with pytest.raises(ModelError, match=r"(?s)smollm2-135m: is not a dual encoder.*Allowed: stitch:…"):
        load_dual_encoder("smollm2-135m")
    with pytest.raises(ModelError, match=r"(?s)has a language model and no text tower.*load_vision_language"):
        load_dual_encoder("stitch:efficientnet-lite0+smollm2-135m")


def test_a_bundle_of_another_kind_is_refused(tmp_path, tiny_folder):
    folder = tmp_path / "bundle"
    folder.mkdir()
    write(folder, Manifest("vision-language", "x", ()))
    for scheme in ("bundle", "local-dir"):
        with pytest.raises(
            ModelError, match=r"(?s)is a bundle of kind 'vision-language'.*Fix: open it with open_bundle"
        ):
            load_dual_encoder(f"{scheme}:{folder}")


def test_options_are_for_stitches(tiny_folder):
    with pytest.raises(ModelError, match=r"takes no options, got dropout, seed"):
        load_dual_encoder(f"local-dir:{tiny_folder}", seed=3, dropout=0.1)


def test_a_bundle_is_verified_and_keeps_what_it_owes(tmp_path, tiny):
    from kit.manifest import Base

    data = Base("openmoji", "ab", "CC-BY-SA-4.0", "Emoji by OpenMoji", rows=3, split="train")
    save_bundle(tmp_path / "b", tiny, name="x", data=(data,))
    mother = load_dual_encoder(f"bundle:{tmp_path / 'b'}", device="cpu")
    assert mother.digest() == tiny.digest()
    child = save_bundle(tmp_path / "child", mother, name="y")
    assert "Emoji by OpenMoji" in child.manifest.attributions()
    assert "CC-BY-SA-4.0" in child.manifest.licences()
    weights = tmp_path / "b" / "open_clip_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 16
    weights.write_bytes(raw)
    with pytest.raises(BundleError, match=r"open_clip_model.safetensors: differs from what was saved"):
        load_dual_encoder(f"bundle:{tmp_path / 'b'}")


def test_a_bundle_opened_as_a_folder_keeps_what_it_owes(tmp_path, tiny):
    from kit.manifest import Base

    data = Base("openmoji", "ab", "CC-BY-SA-4.0", "Emoji by OpenMoji", rows=3, split="train")
    folder = save_bundle(tmp_path / "b", tiny, name="x", data=(data,)).folder
    mother = load_dual_encoder(f"local-dir:{folder}", device="cpu")
    assert mother.bases == load_dual_encoder(f"bundle:{folder}", device="cpu").bases
    child = save_bundle(tmp_path / "child", mother, name="y").manifest
    assert child.attributions() == ("Emoji by OpenMoji",)
    assert "CC-BY-SA-4.0" in child.licences()
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        load_dual_encoder(f"local-dir:{folder}", device="cpu")


def test_another_programs_manifest_is_no_bundles(tmp_path, tiny, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "clip")
    (tmp_path / "clip" / "manifest.json").write_text('{"name": "a web page"}', encoding="utf-8")
    assert load_dual_encoder(f"local-dir:{tmp_path / 'clip'}", device="cpu").digest() == tiny.digest()


def test_the_best_device_is_one_that_torch_has():
    torch.zeros(1, device=best_device())
    assert PREPROCESS["size"] == [32, 32]

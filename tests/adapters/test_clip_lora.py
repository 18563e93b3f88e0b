"""LoRA in both towers of a CLIP: saved merged and apart, and opened without kit."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from dual_encoders import TINY, fresh, noise_pictures, write_clip
from peft import PeftModel
from safetensors.torch import load_file

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.clip_lora import add_clip_lora
from kit.errors import BundleError, ModelError
from kit.models.load import load_dual_encoder

TEXTS = ["grinning face", "a very long name of an airplane that lands", "Hund"]


def trained(encoder):
    return {name: one for name, one in encoder.clip.named_parameters() if one.requires_grad}


@torch.no_grad()
def as_trained(encoder):
    generator = torch.Generator().manual_seed(1)
    for one in trained(encoder).values():
        one.add_(torch.randn(one.shape, generator=generator) * 0.05)
    return encoder


@torch.no_grad()
def vectors(encoder):
    pixels = torch.stack([encoder.preprocess(picture.open()) for picture in noise_pictures(2)])
    return encoder.encode_image(pixels), encoder.encode_text(encoder.tokenize(TEXTS))


def close(found, expected):
    return all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def adapted(plain, **options):
    return as_trained(add_clip_lora(fresh(plain), **{"image": 1, "text": 1, "rank": 4} | options))


@pytest.mark.parametrize("name", ["tiny", pytest.param("stitched", marks=pytest.mark.weights)])
def test_the_top_blocks_the_projections_and_the_temperature_are_trained(name, request):
    plain = request.getfixturevalue(name)
    encoder = add_clip_lora(fresh(plain), image=1, text=2, rank=4)
    assert close(vectors(encoder), vectors(plain)), "it starts as no change"
    names = trained(encoder)
    if name == "tiny":
        places = {name.split(".lora_")[0] for name in names if "lora_" in name}
        parts = ("attn", "mlp.c_fc", "mlp.c_proj")
        wanted = {f"visual.transformer.resblocks.1.{part}" for part in parts}
        assert places == wanted | {f"transformer.resblocks.{number}.{part}" for number in (0, 1) for part in parts}
        rest = {"visual.proj", "text_projection", "logit_scale"}
    else:
        layers = {name.split(".layer.")[1][0] for name in names if ".layer." in name}
        blocks = {name.split(".blocks.")[1][:3] for name in names if ".blocks." in name}
        assert (layers, blocks) == ({"4", "5"}, {"6.0"})
        rest = {"logit_scale"}
        assert {name for name in names if "head" in name} == {
            f"visual.head.modules_to_save.default.proj.{one}" for one in ("weight", "bias")
        }
    assert set(encoder.rest()) == rest


def test_merging_leaves_the_adapted_model_as_it_is(tiny):
    encoder = adapted(tiny)
    before = vectors(encoder)
    merged = encoder.merged()
    assert set(merged.clip.state_dict()) == set(tiny.clip.state_dict())
    assert not close(before, vectors(tiny)), "or nothing would be shown"
    assert close(vectors(merged), before)
    assert close(vectors(encoder), before)
    assert len(trained(encoder)) > 3


@pytest.mark.weights
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_open_clip_opens_the_merged_bundle_and_peft_the_adapter_both_without_kit(stitched, tmp_path, dora):
    encoder = adapted(stitched, dora=dora, dropout=0.1)
    encoder.adapter.eval()
    made = save_bundle(tmp_path / "made", encoder, name="Emoji in five languages")
    save_bundle(tmp_path / "base", stitched, name="What it was trained on")
    for number, picture in enumerate(noise_pictures(2)):
        (tmp_path / f"{number}.png").write_bytes(picture.read())
    code = textwrap.dedent(f"""
        import os, sys
        sys.modules["kit"] = None
        import numpy, open_clip, torch
        from peft import PeftModel
        from PIL import Image
        for folder in ("made", "base"):
            os.chdir(f"../{{folder}}")
            model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
            tokenizer = open_clip.get_tokenizer("local-dir:.")
            model.eval()
            if folder == "base":
                model = PeftModel.from_pretrained(model, "../made/adapter").eval()
            with torch.no_grad():
                pixels = torch.stack([preprocess(Image.open(f"../{{n}}.png").convert("RGB")) for n in (0, 1)])
                image = model.encode_image(pixels, normalize=True)
                text = model.encode_text(tokenizer({TEXTS!r}), normalize=True)
            numpy.savez(f"../{{folder}}.npz", image=image, text=text)
    """)
    empty = tmp_path / "empty-home"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(empty), "KIT_HOME": str(empty)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=made.folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = vectors(encoder)
    assert not close(expected, vectors(stitched))
    for folder in ("made", "base"):
        found = np.load(tmp_path / f"{folder}.npz")
        assert close((found["image"], found["text"]), expected), folder
    assert close(vectors(open_bundle(made.folder).load()), expected)


def test_of_open_clips_own_towers_the_rest_lies_beside_the_adapter(tiny, tiny_folder, tmp_path):
    encoder = adapted(tiny)
    made = save_bundle(tmp_path / "made", encoder, name="Tiny")
    base = load_dual_encoder(f"local-dir:{tiny_folder}", device="cpu")
    model = PeftModel.from_pretrained(base.clip, made.folder / "adapter").eval()
    base.clip.load_state_dict(load_file(made.folder / "adapter" / "rest.safetensors"), strict=False)
    assert model.get_base_model() is base.clip
    assert close(vectors(base), vectors(encoder))
    assert close(vectors(made.load()), vectors(encoder))
    assert torch.equal(base.clip.logit_scale, encoder.clip.logit_scale)


def test_the_card_says_how_and_the_manifest_holds_every_file(tiny, tmp_path):
    made = save_bundle(tmp_path / "made", adapted(tiny), name="Tiny")
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert 'create_model_and_transforms("local-dir:.")' in card
    assert 'PeftModel.from_pretrained(base, "PATH/adapter")' in card
    assert f'kit.load_dual_encoder("{tiny.name}")' in card
    files = {f"adapter/{one}" for one in ("adapter_config.json", "adapter_model.safetensors", "rest.safetensors")}
    assert {name for name in open_bundle(made.folder).manifest.files if "/" in name} == files
    assert all((made.folder / name).stat().st_mode & 0o044 == 0o044 for name in files)
    config = json.loads((made.folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny.name
    assert config["peft_type"] == "LORA"
    (made.folder / "adapter" / "rest.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"adapter/rest\.safetensors: differs from what was saved"):
        open_bundle(made.folder)


def test_the_bare_model_of_an_adapted_one_is_not_saved(tiny, tmp_path):
    encoder = fresh(tiny)
    add_clip_lora(encoder, image=1, text=1, rank=4)
    with pytest.raises(BundleError, match="has LoRA in its towers"):
        save_bundle(tmp_path / "made", encoder, name="x")
    assert not (tmp_path / "made").exists()


def test_one_tower_may_be_left_alone(tiny):
    assert not any("visual" in name for name in trained(add_clip_lora(fresh(tiny), image=0)) if "lora_" in name)


def test_a_text_projection_that_is_a_layer_is_kept_too(tmp_path):
    settings = {**TINY, "text_cfg": {**TINY["text_cfg"], "proj_bias": True}}
    folder = write_clip(tmp_path / "clip", settings)
    encoder = adapted(load_dual_encoder(f"local-dir:{folder}", device="cpu"))
    assert set(encoder.rest()) == {"visual.proj", "logit_scale", "text_projection.weight", "text_projection.bias"}
    made = save_bundle(tmp_path / "made", encoder, name="x")
    assert close(vectors(made.load()), vectors(encoder))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"image": 3, "text": 9}, r"(?s)image: must be a whole number of 0 to 2 blocks, got 3.*text: must .* got 9"),
        ({"image": True}, "image: must be a whole number"),
        ({"image": 0, "text": 0}, "no block is adapted"),
        ({"rank": 99}, r"rank: is 99, and a change of attn has at most 32"),
        ({"dropout": 0.1}, r"PEFT has none for nn\.MultiheadAttention"),
    ],
)
def test_what_cannot_be_is_said(tiny, asked, says):
    with pytest.raises(ModelError, match=says):
        add_clip_lora(fresh(tiny), **asked)

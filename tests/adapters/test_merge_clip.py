"""Merging CLIPs with LoRA: against the sum by hand, opened by PEFT alone, and refused where nothing can be added up."""

import json
from dataclasses import replace

import pytest
import torch
from dual_encoders import TINY, fresh, noise_pictures, write_clip
from peft import PeftModel
from safetensors.torch import load_file

from kit.adapters.bundle import Bundle, open_bundle, save_bundle
from kit.adapters.clip_lora import AdaptedEncoder, add_clip_lora
from kit.adapters.merge import METHODS, merge
from kit.errors import BundleError
from kit.models.load import load_dual_encoder

TEXTS = ["grinning face", "a very long name of an airplane that lands", "Hund"]


@torch.no_grad()
def specialist(folder, plain, *, seed, **options):
    """Save a CLIP whose LoRA, projections and temperature have moved at random from one start."""
    encoder = add_clip_lora(fresh(plain), **{"image": 1, "text": 1, "rank": 2, "seed": seed} | options)
    generator = torch.Generator().manual_seed(seed)
    for one in (one for one in encoder.clip.parameters() if one.requires_grad):
        one.add_(torch.randn(one.shape, generator=generator) * 0.05)
    return save_bundle(folder, encoder, name=folder.name, parameters={"seed": seed})


@pytest.fixture(scope="module")
def parents(tmp_path_factory, tiny):
    root = tmp_path_factory.mktemp("clips")
    return [specialist(root / name, tiny, seed=seed) for seed, name in enumerate("ab", 1)]


@torch.no_grad()
def vectors(encoder):
    pixels = torch.stack([encoder.preprocess(picture.open()) for picture in noise_pictures(2)])
    return torch.cat([encoder.encode_image(pixels), encoder.encode_text(encoder.tokenize(TEXTS))])


def weights(bundle):
    return load_file(bundle.folder / "open_clip_model.safetensors")


def by_hand(plain, bundles, shares):
    """Return base + sum of shares x (checkpoint - base)."""
    base, each = plain.clip.state_dict(), [weights(one) for one in bundles]
    return {
        name: base[name] + sum(share * (one[name] - base[name]) for share, one in zip(shares, each, strict=True))
        for name in base
    }


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_the_mean_of_changes_is_the_mean_of_checkpoints(parents, tiny, tmp_path, method):
    found = merge(parents, method=method, projector="average", device="cpu")
    saved = found.save(tmp_path / "child")
    expected = by_hand(tiny, parents, [0.5, 0.5])
    for name, tensor in weights(saved).items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=1e-4, atol=1e-6, msg=lambda said, name=name: f"{name} {said}"
        )
    assert found.measurements["parity_error"].value < 1e-4
    torch.testing.assert_close(vectors(open_bundle(saved.folder).load()), vectors(found.model), rtol=0, atol=1e-5)


def test_peft_alone_opens_the_child_on_the_base_and_the_manifest_names_both_parents(parents, tiny_folder, tmp_path):
    found = merge(parents, method="ties", projector="average", device="cpu")
    saved = found.save(tmp_path / "child", name="Both")
    assert isinstance(found.model, AdaptedEncoder)
    base = load_dual_encoder(f"local-dir:{tiny_folder}", device="cpu")
    model = PeftModel.from_pretrained(base.clip, saved.folder / "adapter").eval()
    base.clip.load_state_dict(load_file(saved.folder / "adapter" / "rest.safetensors"), strict=False)
    assert model.get_base_model() is base.clip
    torch.testing.assert_close(vectors(base), vectors(saved.load()), rtol=0, atol=1e-5)
    assert not torch.allclose(vectors(base), vectors(parents[0].load()), atol=1e-3), "or nothing would be shown"
    again = open_bundle(saved.folder)
    assert again.manifest.parents == {name: one.manifest.digest() for name, one in zip("ab", parents, strict=True)}
    assert again.manifest.parameters["projectors_apart"] > 0
    assert "sign_conflict" in again.manifest.results["measurements"]


def test_a_child_can_be_merged_again_and_a_parent_negated(parents, tiny, tmp_path):
    both = merge(parents, method="task", projector="average", device="cpu").save(tmp_path / "both")
    back = merge([both, parents[1]], method="task", weights=[1, -1], projector="average", device="cpu")
    base, own, found = tiny.clip.state_dict(), weights(parents[0]), back.model.merged().clip.state_dict()
    name = "visual.transformer.resblocks.1.attn.in_proj_weight"
    assert not torch.allclose(own[name], base[name])
    torch.testing.assert_close(found[name], own[name], rtol=1e-4, atol=1e-6)
    gone = merge(parents[:1], weights=[-1], device="cpu").model.merged().clip.state_dict()
    torch.testing.assert_close(gone[name], 2 * base[name] - own[name], rtol=1e-4, atol=1e-6)


@pytest.mark.weights
def test_a_stitched_clip_merges_through_convolutions_and_a_whole_projection(stitched, tmp_path):
    pair = [specialist(tmp_path / name, stitched, seed=seed) for seed, name in enumerate("ab", 1)]
    found = merge(pair, method="concat", projector="average", device="cpu")
    saved, expected = found.save(tmp_path / "child"), by_hand(stitched, pair, [0.5, 0.5])
    for name, tensor in weights(saved).items():
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), rtol=1e-3, atol=1e-5)
    settings = json.loads((saved.folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["modules_to_save"] == ["visual.head"]
    assert settings["base_model_name_or_path"] == stitched.name
    assert vectors(saved.load()).isfinite().all()


def test_every_method_merges_clips(parents):
    for method in METHODS:
        assert merge(parents, method=method, projector="average", device="cpu").parameters["method"] == method


def test_projections_that_differ_are_refused_unless_they_are_to_be_averaged(parents):
    with pytest.raises(BundleError, match=r"(?s)projections or temperatures differ by .*--projector average"):
        merge(parents, device="cpu")


def test_a_clip_that_cannot_be_merged_says_why_and_what_would_work(parents, stitched, tiny, tmp_path):
    whole = save_bundle(tmp_path / "whole", tiny, name="Projections alone")
    with pytest.raises(
        BundleError, match=r"(?s)has no adapter: what it trained lies in its checkpoint.*kit run clip-lora"
    ):
        merge([parents[0], whole])
    larger = {**TINY, "embed_dim": TINY["embed_dim"] * 2}
    wide = load_dual_encoder(f"local-dir:{write_clip(tmp_path / 'wide', larger)}", device="cpu")
    with pytest.raises(BundleError, match=r"another architecture than .*: embed_dim differ"):
        merge([parents[0], specialist(tmp_path / "w", wide, seed=1)])
    foreign = fresh(tiny)
    with torch.no_grad():
        foreign.clip.visual.conv1.weight.add_(0.01)
    other = specialist(tmp_path / "other", foreign, seed=2)
    with pytest.raises(BundleError, match=r"(?s)other weights than .*: visual\.conv1\.weight differs by .*on one base"):
        merge([parents[0], other], projector="average", device="cpu")


def test_who_is_no_kind_of_parent_hears_what_would_work(parents):
    export, seeing = (
        Bundle(parents[1].folder, replace(parents[1].manifest, kind=kind))
        for kind in ("onnx-dual-encoder", "vision-language")
    )
    with pytest.raises(BundleError, match=r"(?s)'onnx-dual-encoder', an export .*and export the child"):
        merge([parents[0], export])
    with pytest.raises(BundleError, match=r"is a vision-language, and .* is a dual-encoder: they have no matrix"):
        merge([parents[0], seeing])

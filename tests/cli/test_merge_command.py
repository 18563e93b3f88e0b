"""``kit merge`` on tiny bundles: what it shows, what it leaves, and what it refuses."""

import json
import re

import pytest
from dual_encoders import TINY, noise_pictures, write_clip
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.clip_lora import add_clip_lora
from kit.adapters.language import adapt_language
from kit.models.load import load_dual_encoder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("merge")
    vision, language = write_clip(root / "clip", TINY), write_language(root / "llama")
    saved = {}
    for seed, name in enumerate(("shapes", "colours"), 1):
        model = adapt_language(tiny_stitch(vision, language, entry_layer=2, seed=0), rank=2, seed=seed)
        for parameter in model.language.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * seed
        saved[name] = save_bundle(root / name, model, name=name)
    return saved


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    source = f"local-dir:{write_clip(root / 'clip', TINY)}"
    data = root / "data"
    data.mkdir()
    lines = []
    for number, picture in enumerate(noise_pictures(40)):
        (data / f"{number}.png").write_bytes(picture.read())
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}))
    (data / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    saved = []
    for seed, name in enumerate(("animals", "food"), 1):
        encoder = add_clip_lora(load_dual_encoder(source, device="cpu"), image=1, text=1, rank=2, seed=seed)
        for parameter in encoder.clip.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * seed
        saved.append(save_bundle(root / name, encoder, name=name).folder)
    return saved


def test_two_bundles_become_one_that_names_both(kit, bundles, tmp_path):
    parents = list(bundles.values())
    done = kit("merge", *parents, "--method", "ties", "--density", "0.5", "--out", "both")
    assert done.returncode == 0, done.stderr
    assert re.search(r"sign_conflict +[0-9.]+ share", done.stdout)
    assert re.search(r"parity_error +[0-9.]+", done.stdout)
    assert "of shapes, colours" in done.stdout
    child = open_bundle(tmp_path / "both")
    assert child.manifest.parents == {name: one.manifest.digest() for name, one in bundles.items()}
    assert child.load(device="cpu").language is not None


def test_what_is_wrong_is_said_and_nothing_is_left(kit, bundles, tmp_path):
    done = kit("merge", *bundles.values(), "--method", "tise", "--weights", "1", "--out", "both")
    assert done.returncode == 2
    assert "Did you mean 'ties'" in done.stderr
    assert "one finite number per parent" in done.stderr
    assert not (tmp_path / "both").exists()
    assert "no list of numbers" in kit("merge", *bundles.values(), "--weights", "a,b", "--out", "both").stderr


def test_clips_merge_where_the_projections_may_be_averaged_and_are_asked_before_and_after(kit, clips, tmp_path):
    refused = kit("merge", *clips, "--out", "both")
    assert refused.returncode == 2
    assert "say --projector average" in refused.stderr
    asked = ("--ask", f"folder:{clips[0].parent / 'data'}", "--limit", "6")
    done = kit("merge", *clips, "--projector", "average", "--method", "ties", *asked, "--out", "both")
    assert done.returncode == 0, done.stderr
    for who in ("parent_1", "parent_2", "child"):
        assert re.search(rf"{who}_recall_at_1 +[0-9.]+ share", done.stdout), done.stdout
    assert "was averaged" in done.stderr
    child = open_bundle(tmp_path / "both")
    assert child.manifest.kind == "dual-encoder"
    assert set(child.manifest.parents) == {"animals", "food"}
    assert "child_recall_at_1" in child.manifest.results["measurements"]
    lineage = kit("lineage", "both")
    assert lineage.returncode == 0, lineage.stderr
    assert all(name in lineage.stdout for name in ("animals", "food"))


@pytest.mark.weights
def test_answers_are_asked_before_and_after_by_kind_of_question(kit, bundles, tmp_path):
    done = kit("merge", *bundles.values(), "--ask", "easy-vqa", "--limit", "3", "--out", "both")
    assert done.returncode == 0, done.stderr
    for name in ("parent_1_exact_match_yes_no", "parent_2_exact_match", "child_exact_match_yes_no"):
        assert re.search(rf"{name} +[0-9.]+ share", done.stdout), done.stdout

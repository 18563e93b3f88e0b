"""``kit merge`` on tiny bundles: what it shows, what it leaves, and what it refuses."""

import re

import pytest
from dual_encoders import TINY, write_clip
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.language import adapt_language


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

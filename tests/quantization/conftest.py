"""Tiny stitched bundles, made once."""

import pytest
from adapted_models import adapted
from dual_encoders import one_thread, stitched, tiny_folder
from stitched_models import tiny_vision, write_language

from kit.adapters.bundle import save_bundle

__all__ = ["one_thread", "stitched", "tiny_folder", "tiny_vision"]


@pytest.fixture(scope="session")
def language(tmp_path_factory):
    return write_language(tmp_path_factory.mktemp("copies") / "llama", intermediate_size=128)


@pytest.fixture(scope="session")
def bundle(tiny_vision, language, tmp_path_factory):
    """A bundle with LoRA in the top two layers."""
    model = adapted(tiny_vision, language, entry_layer=2)
    return save_bundle(tmp_path_factory.mktemp("bundle") / "seeing", model, name="Seeing")

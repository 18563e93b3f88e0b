"""``kit export`` on a tiny bundle: the parity table, the folder, and what it refuses."""

import pytest
from dual_encoders import TINY, write_clip
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import save_bundle
from kit.quantization.runtime import open_runtime


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    language = write_language(root / "llama", intermediate_size=128)
    model = tiny_stitch(write_clip(root / "clip", TINY), language, entry_layer=2)
    return save_bundle(root / "seeing", model, name="Seeing")


def test_an_export_with_its_gate(kit, bundle, tmp_path):
    done = kit("export", bundle, "--format", "onnx", "--out", "onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pass") == 4
    assert "onnx: " in done.stdout
    assert open_runtime(tmp_path / "onnx").name == f"onnx:{tmp_path / 'onnx'}"
    again = kit("export", bundle, "--format", "onnx", "--out", "onnx")
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_openvino_is_refused_with_the_reason(kit, bundle):
    done = kit("export", bundle, "--format", "openvino")
    assert done.returncode == 2
    assert "half of onnxruntime's rate" in done.stderr
    assert "kit run bench-quantization" in done.stderr


def test_an_unknown_format_is_told(kit, bundle):
    done = kit("export", bundle, "--format", "onyx")
    assert done.returncode == 2
    assert "'onyx' is unknown. Did you mean 'onnx'?" in done.stderr

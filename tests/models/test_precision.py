"""The precision that a device is quick with: what it computes itself, not what torch emulates."""

import pytest
import torch

from kit.models import precision
from kit.models.precision import best_precision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sha_ni\n", "bf16"),
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_tile amx_bf16\n", "bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", "bf16"),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", "no"),
        ("model name\t: bf16\n", "no"),
        ("", "no"),
    ],
)
def test_a_processor_counts_by_its_own_flags(tmp_path, monkeypatch, text, expected):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert precision._cpu_flags(tmp_path / "none") == set()
    found = precision._cpu_flags(file)
    monkeypatch.setattr(precision, "_cpu_flags", lambda: found)
    assert best_precision("cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_emulates_bfloat16_takes_float16(monkeypatch, native, expected):
    def supported(including_emulation=True):
        return native or including_emulation  # a T4's answer

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert best_precision("cuda:0") == expected


def test_mps_computes_in_float32():
    assert best_precision(torch.device("mps")) == "no"

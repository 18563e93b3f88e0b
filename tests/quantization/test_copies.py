"""Copies: merged through the float base, quantised, saved with their parent's name, and of the size that was said."""

import pytest
import torch
from adapted_models import adapted
from stitched_models import tiny_stitch

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.llama_adapter import add_llama_adapter
from kit.errors import BundleError, ModelError
from kit.models.backends import BACKENDS, held_as
from kit.quantization.copies import merged, quantised, save_copy, weighed
from kit.quantization.parity import TOLERANCES, logits_of, parity
from kit.quantization.probes import fixed_probes
from kit.quantization.sizes import check_budget, choices, choose, disk_bytes, expected_mb, held_bytes

LOW = ["bitsandbytes-int8", "bitsandbytes-nf4", "torchao-int8"]
PROBES = fixed_probes()


def distance(one, other):
    return parity(logits_of(one), logits_of(other), PROBES[::4])


def test_merging_into_floats_is_exact(bundle):
    found = distance(bundle.load(device="cpu"), merged(bundle))
    assert found.max_logit < 1e-4
    assert found.agreement == 1


def test_an_adapter_of_a_quantised_base_is_merged_into_the_float_base(tiny_vision, language, tmp_path):
    model = adapted(tiny_vision, language, entry_layer=2, backend="bitsandbytes-nf4")
    qlora = save_bundle(tmp_path / "qlora", model, name="QLoRA")
    whole = merged(qlora)
    assert held_as(whole.language) == "float32"
    floats = qlora.load(device="cpu", backend="", dtype="float32")
    assert distance(floats, whole).max_logit < 1e-4


@pytest.mark.parametrize("backend", ["bfloat16", *LOW])
@pytest.mark.parametrize("floats", ["float32", "bfloat16"])
def test_a_copy_is_smaller_passes_its_gate_and_reloads_identically(bundle, tmp_path, backend, floats):
    model = merged(bundle)
    copy = quantised(model, backend, dtype=floats)
    found = distance(model, copy.model)
    assert found.max_logit > 1e-3
    # A random model's likeliest tokens are all but tied, so that 4 bits decide many of them anew.
    faults = found.faults(TOLERANCES[BACKENDS[backend].to])
    assert not [fault for fault in faults if not (backend.endswith("nf4") and "agreement" in fault.where)]
    saved = save_copy(tmp_path / "copy", copy, bundle)
    again = open_bundle(saved.folder).load(device="cpu")
    assert distance(copy.model, again).max_logit == 0
    assert saved.manifest.parents == {"Seeing": bundle.manifest.digest()}
    assert saved.manifest.parameters["backend"] == backend
    floats = backend if BACKENDS[backend].settings is None else floats
    said = expected_mb(model.language, BACKENDS[backend], floats) * 1e6
    assert held_bytes(copy.model.language) == pytest.approx(said, rel=0.06)  # rotary tables and the like
    assert disk_bytes(saved.folder / "language") < disk_bytes(bundle.folder) + said * 1.5 + 100_000


def test_what_a_copy_takes_is_weighed_without_leaving_it_behind(bundle):
    copy = quantised(merged(bundle), "torchao-int8")
    found = weighed(copy, bundle, peak=False)
    assert set(found) == {"quantise_s", "disk_mb"}
    assert found["quantise_s"].value == copy.wall_s
    assert 0.1 < found["disk_mb"].value < 2


def test_prompts_stay_on_a_copy(tiny_vision, language, tmp_path):
    model = tiny_stitch(tiny_vision, language, prompted=True)
    add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
    for name, one in model.language.named_parameters():
        if one.requires_grad and "self_attn" in name:
            one.data += 0.05
    prompts = save_bundle(tmp_path / "prompts", model, name="Prompts")
    copy = quantised(merged(prompts), "torchao-int8", dtype="float32")
    found = distance(prompts.load(device="cpu"), copy.model)
    assert 0 < found.max_logit < 0.5
    saved = save_copy(tmp_path / "copy", copy, prompts)
    assert distance(copy.model, saved.load(device="cpu")).max_logit == 0


def test_other_bundles_are_refused(bundle, tmp_path):
    saved = save_copy(tmp_path / "copy", quantised(merged(bundle), "torchao-int8"), bundle)
    with pytest.raises(BundleError, match="what that lost does not come back"):
        merged(saved)


def test_sizes_fit_the_budget_or_are_refused_with_what_would_fit(bundle):
    language = merged(bundle).language
    sizes = choices(language, "float32")
    assert [one.mb for one in sizes] == sorted((one.mb for one in sizes), reverse=True)
    assert sizes[0].backend == "float32"
    assert sizes[0].mb * 1e6 == held_bytes(language)
    check_budget(sizes, BACKENDS["torchao-int8"], 1)
    with pytest.raises(
        ModelError, match=r"float32 takes .* MB, more than 0.3\n.*Would fit: .*nf4 .*\n  Fix: --backend"
    ):
        check_budget(sizes, BACKENDS["float32"], 0.3)
    with pytest.raises(ModelError, match=r"The smallest copy is bitsandbytes-nf4 with .* MB; nothing fits."):
        check_budget(sizes, BACKENDS["float32"], 0.001)


def test_a_backend_is_chosen_by_type_and_library():
    assert choose("int8").name == "bitsandbytes-int8"
    assert choose("int8", "torchao").name == "torchao-int8"
    assert choose("nf4").name == "bitsandbytes-nf4"
    if not torch.cuda.is_available():
        assert choose("int4").name == "bitsandbytes-nf4"
        with pytest.raises(ModelError, match="no kernels for cpu"):
            choose("int4", "torchao")
    with pytest.raises(ModelError, match="'torchao' has no nf4"):
        choose("nf4", "torchao")
    with pytest.raises(ModelError, match="'int3' is unknown"):
        choose("int3")

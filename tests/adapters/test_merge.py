"""Merging: what each method makes of the changes, by arithmetic; who is refused, and why."""

import json

import pytest
import torch
from dual_encoders import noise_pictures
from safetensors.torch import load_file, save_file
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.interference import lora_layers
from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.adapters.merge import METHODS, merge
from kit.adapters.mergeable import projectors_differ
from kit.data.rows import Question
from kit.errors import BundleError
from kit.manifest import Base, write
from kit.models.activations import ActivationStore
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.reward import Reward, RewardTail


def specialist(folder, vision, language, *, seed, rank=4, projector=0, name="", **options):
    """Save a bundle whose adapter is random; the projector is the same for all unless it is asked to differ."""
    model = adapt_language(tiny_stitch(vision, language, entry_layer=2, seed=0), rank=rank, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.language.named_parameters():
        if "lora_" in key:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for parameter in model.projector.parameters():
        parameter.data.add_(projector)
    return save_bundle(folder, model, name=name or folder.name, parameters={"seed": seed})


@pytest.fixture(scope="module")
def parents(tmp_path_factory, tiny_vision, tiny_language):
    root = tmp_path_factory.mktemp("parents")
    return [specialist(root / name, tiny_vision, tiny_language, seed=seed) for seed, name in enumerate("abc", 1)]


def deltas(bundle_or_model):
    """Return each adapted matrix's change, by its name."""
    model = bundle_or_model if hasattr(bundle_or_model, "language") else bundle_or_model.load(device="cpu")
    found = {}
    for name, module in lora_layers(model.language):
        (adapter,) = module.lora_A
        found[name] = (module.lora_B[adapter].weight @ module.lora_A[adapter].weight * module.scaling[adapter]).detach()
    return found


def combined(parents, weights):
    each = [deltas(one) for one in parents]
    return {name: sum(w * one[name] for w, one in zip(weights, each, strict=True)) for name in each[0]}


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **({"rtol": 1e-4, "atol": 1e-5} | tolerance))


@pytest.mark.parametrize("method", ["concat", "task", "svd"])
def test_sums_of_changes_are_sums(parents, method):
    weights = [1.0, 1.0, 1.0] if method == "task" else [1 / 3] * 3
    found = merge(parents, method=method, device="cpu")
    close(deltas(found.model), combined(parents, weights))
    assert found.measurements["parity_error"].value < 1e-5
    for number in (1, 2, 3):
        assert found.measurements[f"kept_of_parent_{number}"].value == pytest.approx(weights[number - 1], abs=0.1)


def test_a_rank_cuts_and_says_how_much(parents):
    found = merge(parents[:2], method="svd", rank=3, device="cpu")
    expected = {}
    for name, whole in combined(parents[:2], [0.5, 0.5]).items():
        u, s, v = torch.linalg.svd(whole.double(), full_matrices=False)
        expected[name] = ((u[:, :3] * s[:3]) @ v[:3]).float()
    close(deltas(found.model), expected)
    assert 0.2 < found.measurements["parity_error"].value < 1


def by_hand_ties(each, density):
    """Yadav et al.'s three steps in plain words: trim, elect signs, mean of those that agree."""
    trimmed = []
    for one in each:
        flat = one.abs().flatten()
        kept = torch.zeros_like(flat)
        kept[flat.argsort(descending=True)[: int(density * flat.numel())]] = 1
        trimmed.append(one * kept.view_as(one))
    stack = torch.stack(trimmed)
    elected = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    agree = stack.sign() == elected
    return (stack * agree).sum(0) / agree.sum(0).clamp(min=1)


def test_ties_are_those_of_the_paper_up_to_the_rank(parents):
    found = merge(parents[:2], method="ties", density=0.5, rank=64, device="cpu")
    each = [deltas(one) for one in parents[:2]]
    close(deltas(found.model), {name: by_hand_ties([one[name] for one in each], 0.5) for name in each[0]})
    assert found.measurements["parity_error"].value < 1e-4
    low = merge(parents[:2], method="ties", density=0.5, device="cpu")
    assert low.measurements["parity_error"].value > 0.05, "what ties makes of two ranks has more rank than both"


@pytest.mark.parametrize("method", ["dare", "dare-ties"])
def test_dare_draws_by_its_seed_and_is_told_how_far_its_draw_lies_from_their_mean(parents, method):
    one, same, other = (merge(parents[:2], method=method, rank=64, seed=seed, device="cpu") for seed in (1, 1, 2))
    close(deltas(one.model), deltas(same.model))
    assert any(
        not torch.allclose(a, b) for a, b in zip(deltas(one.model).values(), deltas(other.model).values(), strict=True)
    )
    assert one.measurements["parity_error"].value > 0.5
    assert one.measurements["kept_of_parent_1"].value == pytest.approx(0.5 if method == "dare" else 0.75, abs=0.15)


def test_dare_of_all_entries_is_the_mean(parents):
    found = merge(parents[:2], method="dare", rank=64, density=1.0, device="cpu")
    close(deltas(found.model), combined(parents[:2], [0.5, 0.5]))


def test_linear_is_peft_s_mean_of_factors_and_far_from_the_mean_of_changes(parents):
    found = merge(parents[:2], method="linear", device="cpu")
    assert found.measurements["parity_error"].value > 0.3
    assert found.model.language.peft_config["child"].r == 4


def test_a_weight_of_minus_one_negates_and_parents_weighted_one_and_zero_are_the_first(parents):
    close(deltas(merge(parents[:1], weights=[-1], device="cpu").model), combined(parents[:1], [-1]))
    close(
        deltas(merge(parents[:2], method="task", weights=[1, -1], device="cpu").model), combined(parents[:2], [1, -1])
    )
    first = merge(parents[:2], method="concat", weights=[1, 0], device="cpu").model
    own = parents[0].load(device="cpu")
    asked = own.processor(text=["What colour?"], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(first.model(**asked).logits, own.model(**asked).logits, rtol=1e-4, atol=1e-4)


def test_ranks_and_scales_of_their_own_come_out_right(tmp_path, parents, tiny_vision, tiny_language):
    other = specialist(tmp_path / "other", tiny_vision, tiny_language, seed=5, rank=2, alpha=7.0, rslora=True)
    for order in ([other, parents[0]], [parents[0], other]):
        close(deltas(merge(order, method="task", device="cpu").model), combined(order, [1, 1]))
    with pytest.raises(BundleError, match=r"ranks are 4, 2\n.*take svd or concat"):
        merge([parents[0], other], method="linear", device="cpu")


def test_the_child_is_a_bundle_that_names_all_parents_and_opens_as_it_was(parents, tmp_path):
    found = merge(parents, method="ties", device="cpu")
    saved = found.save(tmp_path / "child", measurements={})
    again = open_bundle(saved.folder)
    assert again.manifest.parents == {name: one.manifest.digest() for name, one in zip("abc", parents, strict=True)}
    assert again.manifest.name == "a + b + c"
    assert again.manifest.parameters["method"] == "ties"
    assert "sign_conflict" in again.manifest.results["measurements"]
    close(deltas(again), deltas(found.model), rtol=0, atol=0)


def test_a_merge_can_be_merged_again_with_a_parent_that_names_its_data(tmp_path, parents, tiny_vision, tiny_language):
    data = (Base("openmoji", "0" * 64, "CC-BY-SA-4.0", "By OpenMoji", rows=3, split="train"),)
    model = parents[0].load(device="cpu")
    taught = save_bundle(tmp_path / "taught", model, name="Taught", data=data)
    once = merge([taught, parents[1]], method="task", device="cpu").save(tmp_path / "once")
    assert once.manifest.data == data
    twice = merge([once, taught, parents[2]], method="task", device="cpu")
    close(deltas(twice.model), combined([parents[0], parents[0], parents[1], parents[2]], [1, 1, 1, 1]))


def test_parents_of_one_name_are_both_named(tmp_path, tiny_vision, tiny_language):
    pair = [specialist(tmp_path / f"p{seed}", tiny_vision, tiny_language, seed=seed, name="Seeing") for seed in (1, 2)]
    saved = merge(pair, method="svd", device="cpu").save(tmp_path / "child", name="Both")
    assert saved.manifest.parents == {
        "Seeing": pair[0].manifest.digest(), "Seeing (2)": pair[1].manifest.digest(),
    }  # fmt: skip


def test_projectors_that_differ_are_refused_or_averaged(tmp_path, parents, tiny_vision, tiny_language):
    other = specialist(tmp_path / "other", tiny_vision, tiny_language, seed=2, projector=0.1)
    assert projectors_differ(parents) == 0
    with pytest.raises(BundleError, match=r"(?s)projectors differ by .*--projector average"):
        merge([parents[0], other], device="cpu")
    found = merge([parents[0], other], projector="average", weights=[1, 3], method="task", device="cpu")
    states = [load_file(one.folder / "projector.safetensors") for one in (parents[0], other)]
    for name, tensor in found.model.projector.state_dict().items():
        torch.testing.assert_close(tensor, 0.25 * states[0][name] + 0.75 * states[1][name])
    assert found.parameters["projectors_apart"] > 0


def test_rewards_are_averaged_with_their_heads(tmp_path, tiny_vision, tiny_language):
    pair = []
    for seed in (1, 2):
        model = specialist(tmp_path / f"lora{seed}", tiny_vision, tiny_language, seed=seed).load(device="cpu")
        cut = LanguageCut(model, ActivationStore(tmp_path / "store"))
        tail = RewardTail(LanguageTail(cut))
        tail.weight.data += torch.randn(tail.weight.shape, generator=torch.Generator().manual_seed(seed))
        pair.append(save_bundle(tmp_path / f"reward{seed}", Reward(cut, tail.eval()), name=f"r{seed}"))
    rows = [Question("a", *noise_pictures(1), "Which?", answer) for answer in ("red", "teal")]
    with pytest.raises(BundleError, match="projectors or heads differ"):
        merge(pair, method="concat", device="cpu")
    first = merge(pair, method="concat", weights=[1, 0], projector="average", device="cpu").model
    wanted = pair[0].load(device="cpu").score(rows)
    assert first.score(rows) == pytest.approx(wanted, abs=1e-4)
    assert abs(wanted[0] - wanted[1]) > 0.01
    child = merge(pair, method="svd", projector="average", device="cpu").save(tmp_path / "child")
    close(
        deltas(child.load(device="cpu").cut.model),
        combined([one.load(device="cpu").cut.model for one in pair], [0.5, 0.5]),
    )
    heads = [load_file(one.folder / "reward.safetensors")["weight"] for one in (*pair, child)]
    torch.testing.assert_close(heads[2], (heads[0] + heads[1]) / 2)
    assert child.manifest.kind == "reward"


def test_a_rank_beyond_a_matrix_is_filled_up_so_that_the_child_loads(parents, tmp_path):
    found = merge(parents[:2], method="ties", rank=64, device="cpu")
    close(deltas(found.save(tmp_path / "child")), deltas(found.model), rtol=0, atol=0)


def test_who_cannot_be_merged_is_told_every_reason(tmp_path, parents, tiny_vision, tiny_language):
    foreign = write_language(tmp_path / "llama", seed=9)
    stranger = specialist(tmp_path / "stranger", tiny_vision, foreign, seed=3)
    prompts = tiny_stitch(tiny_vision, tiny_language, prompted=True)
    add_llama_adapter(prompts.language, layers=2)
    prompts = save_bundle(tmp_path / "prompts", prompts, name="Prompts")
    dora = specialist(tmp_path / "dora", tiny_vision, tiny_language, seed=4, dora=True)
    bare = save_bundle(tmp_path / "bare", tiny_stitch(tiny_vision, tiny_language, entry_layer=3), name="Bare")
    with pytest.raises(BundleError) as raised:
        merge([parents[0], stranger, prompts, dora, bare])
    said = str(raised.value)
    for reason in (
        "means nothing in another's", "adaption prompts", "DoRA, whose magnitudes", "only its projector was trained",
        "entry_layer: is 3, and",
    ):  # fmt: skip
        assert reason in said, reason
    with pytest.raises(
        BundleError, match=r"(?s)weights: one finite.*'tie' is unknown. Did you mean 'ties'.*density.*rank.*projector"
    ):
        merge(parents, method="tie", weights=[1], density=0, rank=0, projector="x")
    with pytest.raises(BundleError, match="0 bundles are given"):
        merge([])


def test_a_dual_encoder_is_no_parent(tmp_path, parents, stitched):
    clip = save_bundle(tmp_path / "clip", stitched, name="CLIP")
    with pytest.raises(BundleError, match="is a dual-encoder"):
        merge([parents[0], clip])


def test_every_method_is_one_of_peft_s_and_has_words(parents):
    for name, method in METHODS.items():
        assert method.about
        found = merge(parents[:2], method=name, device="cpu")
        assert found.parameters["method"] == name
        assert json.dumps(found.parameters)


def test_a_bundle_that_was_tampered_with_is_no_parent(parents, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(parents[0].folder, copy)
    state = load_file(copy / "adapter" / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, copy / "adapter" / "adapter_model.safetensors")
    with pytest.raises(BundleError, match="differs from what was saved"):
        open_bundle(copy)
    write(copy, parents[0].manifest)
    merge([parents[1], open_bundle(copy)], method="svd", device="cpu")

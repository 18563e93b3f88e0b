"""Llama's layers in few kernels, against transformers' own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from kit.adapters.llama_adapter import add_llama_adapter
from kit.models.halves import trunk
from kit.models.language_tail import PlainLayers, quick_fits
from kit.models.packs import Batch
from kit.models.quick_layers import FrozenHead, QuickLayers

LORA = {"r": 3, "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}


def llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
                "num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval().requires_grad_(False)


def with_lora(model: LlamaForCausalLM, **changes):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(**(LORA | changes)))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return wrapped


def a_batch(width: int = 24, *, pictures: int = 3, slots: int = 2) -> Batch:
    """Three pictures, the last absent, and five texts of one to four tokens about them."""
    generator = torch.Generator().manual_seed(2)
    lengths, prefix = [4, 1, 3, 2, 4], [0, 0, 1, 2, 2]
    valid = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    places = torch.zeros(valid.shape, dtype=torch.long)
    places[valid] = torch.arange(sum(lengths))
    return Batch(
        opening=torch.randn(2, width, generator=generator),
        features=torch.randn(pictures, slots, 7, generator=generator),
        pictured=torch.tensor([True, True, False]), hidden=torch.randn(sum(lengths), width, generator=generator),
        prefix=torch.tensor(prefix), places=places, valid=valid,
        kept=torch.tensor([2, 3, 4, 7, 9, 13]), labels=torch.tensor([5, 6, 7, 8, 9, 10]),
    )  # fmt: skip


def hidden_of(batch: Batch, slots: int) -> torch.Tensor:
    pictures = torch.randn(3, slots, 24, generator=torch.Generator().manual_seed(3))
    ahead = torch.cat([batch.opening[None].expand(3, -1, -1), pictures], 1)
    return torch.cat([ahead.flatten(0, 1), batch.hidden])


def both(language, cut: int, batch: Batch, slots: int, pictures=None) -> tuple[torch.Tensor, torch.Tensor]:
    whole = trunk(language)
    layers = list(whole.layers)[cut:]
    quick = QuickLayers(layers, whole.rotary_emb, whole.config, torch.float32, norm=whole.norm)
    plain = PlainLayers(language, cut, torch.float32)
    shared, hidden = batch.shared(slots), hidden_of(batch, slots)
    return quick(hidden, shared, batch.kept, pictures), plain(hidden, shared, batch.kept, pictures)


def weighed(output: torch.Tensor) -> torch.Tensor:
    return (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(6))).sum()


def gradients(language, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*[(n, p) for n, p in language.named_parameters() if p.requires_grad], strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


@pytest.mark.parametrize("slots", [0, 2])
def test_lora_layers_give_transformers_outputs_and_gradients(slots: int) -> None:
    language = with_lora(llama(), layers_to_transform=[2, 3], layers_pattern="layers")
    quick, plain = both(language, 1, a_batch(), slots)
    torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-5)
    found, wanted = gradients(language, weighed(quick)), gradients(language, weighed(plain))
    assert len(wanted) == 20
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def test_prompted_layers_give_transformers_outputs_and_gradients() -> None:
    language = llama()
    trained = add_llama_adapter(language, layers=2, tokens=2, rank=3)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in language.named_parameters():
        if name in trained:
            parameter.data.normal_(0.2, 0.3, generator=generator)
    pictures = torch.randn(3, 2, 24, generator=generator)
    quick, plain = both(language, 2, a_batch(), 0, pictures)
    torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-5)
    found, wanted = gradients(language, weighed(quick)), gradients(language, weighed(plain))
    assert len(trained) == len(wanted) == 12
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def test_gates_at_zero_change_nothing() -> None:
    language = llama()
    ids = torch.arange(6)[None]
    before = language(input_ids=ids).logits
    add_llama_adapter(language, layers=3, tokens=2, rank=3)
    torch.testing.assert_close(language(input_ids=ids).logits, before)


def test_an_absent_picture_is_as_none_at_all() -> None:
    """The last picture's slots hold nothing: what is in them must not matter, and positions close up."""
    language = with_lora(llama())
    batch = a_batch()
    with_slots, _ = both(language, 1, batch, 2)
    without, _ = both(language, 1, batch, 0)
    torch.testing.assert_close(with_slots[4:], without[4:], rtol=1e-4, atol=1e-5)  # texts about the absent picture
    assert not torch.allclose(with_slots[:4], without[:4], atol=1e-3)


def test_bfloat16_stays_near() -> None:
    language = with_lora(llama())
    whole = trunk(language)
    batch = a_batch()
    shared, hidden = batch.shared(2), hidden_of(batch, 2)
    exact, rough = (
        QuickLayers(list(whole.layers), whole.rotary_emb, whole.config, dtype, norm=whole.norm)(
            hidden, shared, batch.kept
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_which_layers_are_quick() -> None:
    assert quick_fits(llama(), list(trunk(llama()).layers))
    for changes, fits in (({}, True), ({"use_dora": True}, False), ({"lora_dropout": 0.1}, False)):
        language = with_lora(llama(), **changes)
        assert quick_fits(language, list(trunk(language).layers)) is fits, changes
    other = SimpleNamespace(layers=[], norm=None, config=SimpleNamespace(model_type="qwen2"))
    other.layers = torch.nn.ModuleList()
    assert not quick_fits(other, [])


@pytest.mark.parametrize("count", [1, 150])  # a part of a block, and more than one
@pytest.mark.parametrize("weighing", ["sum", "each row its own"])
def test_the_head_gives_torchs_losses_and_gradients(count: int, weighing: str) -> None:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(count, 8, generator=generator, requires_grad=True)
    weight, labels = torch.randn(30, 8, generator=generator), torch.randint(0, 30, (count,), generator=generator)
    wanted = F.cross_entropy(hidden @ weight.T, labels, reduction="none")
    found = FrozenHead.apply(hidden, weight, labels)
    assert found.shape == (count,)
    torch.testing.assert_close(found, wanted)
    weights = torch.full((count,), 3.0) if weighing == "sum" else torch.randn(count, generator=generator)
    (expected,) = torch.autograd.grad((weights * wanted).sum(), hidden)
    (gradient,) = torch.autograd.grad((weights * found).sum(), hidden)
    torch.testing.assert_close(gradient, expected)

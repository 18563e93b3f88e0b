"""LLaMA-Adapter: how many numbers it trains, that it starts as no change, and everything that is wrong at once."""

import copy

import pytest
import torch
import transformers
from stitched_models import write_language

from kit.adapters.llama_adapter import add_llama_adapter, gates, prompted_layers
from kit.errors import ModelError
from kit.models.prompts import PromptedAttention

SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 64, "num_hidden_layers": 14, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 32,
}  # fmt: skip
SIZES = {**SMOLLM2, "hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 4}
IDS = torch.arange(6)[None]


def llama(**settings):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SIZES | settings))).eval()


def count(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_it_trains_at_most_what_it_may_on_smollm2s_widths():
    model = llama(**SMOLLM2)
    names = add_llama_adapter(model, layers=12, rank=64, tokens=4)
    width, tokens, rank, heads = 576, 4, 64, 9
    assert count(model) == 12 * (tokens * width + 2 * rank * width + heads + 2 * width) == 926_316
    assert count(model) <= 1_200_000
    assert {name.split(".")[2] for name in names} == {str(number) for number in range(2, 14)}
    assert names == [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_norms_are_trained_where_they_are_asked_for():
    with_norms, without = llama(), llama()
    add_llama_adapter(with_norms, layers=3, rank=2, tokens=4)
    add_llama_adapter(without, layers=3, rank=2, tokens=4, norms=False)
    assert count(with_norms) - count(without) == 3 * 2 * 24


def test_it_starts_as_no_change_and_its_gates_open():
    model = llama()
    before = model(IDS).logits
    add_llama_adapter(model, layers=2, rank=2, tokens=4)
    torch.testing.assert_close(model(IDS).logits, before)
    assert {number: gate.tolist() for number, gate in gates(model).items()} == {2: [0.0] * 6, 3: [0.0] * 6}
    assert not model.training
    assert not any(layer.training for layer in prompted_layers(model).values())
    prompted_layers(model)[3].gate.data[:] = torch.tensor([1.0, -1.0, 0, 0, 0, 100.0])
    assert gates(model)[3].tolist() == pytest.approx([0.7616, -0.7616, 0, 0, 0, 1], abs=1e-4)
    assert not torch.allclose(model(IDS).logits, before)


def test_a_gate_at_zero_learns_first():
    """Its gradient is not zero although nothing passes it; everything behind it has none yet."""
    model = llama()
    add_llama_adapter(model, layers=1, rank=2, tokens=4, norms=False)
    model(IDS, labels=IDS).loss.backward()
    (layer,) = prompted_layers(model).values()
    assert layer.gate.grad.abs().min() > 0
    assert layer.static.grad.abs().max() == layer.down.grad.abs().max() == 0


def test_attention_to_prompts_is_softmax_over_prompts_alone():
    """Against the sum written out, head by head, for grouped keys, a picture, and biases."""
    model = llama(attention_bias=True)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    plain = model.model.layers[3].self_attn
    layer = PromptedAttention(plain, tokens=4, rank=2, seed=0)
    generator = torch.Generator().manual_seed(3)
    for parameter in (layer.gate, layer.up, layer.static):
        parameter.data.normal_(0, 0.5, generator=generator)
    hidden = torch.randn(2, 5, 24, generator=generator)
    picture = torch.randn(2, 4, 24, generator=generator)
    turn = model.model.rotary_emb(hidden, torch.arange(5)[None])
    rest = {"position_embeddings": turn, "attention_mask": None}
    found = layer(hidden, shown=picture, **rest)[0] - plain(hidden, **rest)[0]
    prompts = picture + layer.static + picture @ layer.down.T @ layer.up.T
    q, k, v = plain.q_proj(hidden), plain.k_proj(prompts), plain.v_proj(prompts)
    heads = []
    for head in range(6):
        mine, group = slice(4 * head, 4 * head + 4), slice(4 * (head // 3), 4 * (head // 3) + 4)
        weights = (q[..., mine] @ k[..., group].transpose(1, 2) / 2).softmax(-1)
        heads.append(layer.gate[head].tanh() * (weights @ v[..., group]))
    torch.testing.assert_close(found, torch.cat(heads, -1) @ plain.o_proj.weight.T)
    alone = layer(hidden, **rest)[0]
    torch.testing.assert_close(alone, layer(hidden, shown=torch.zeros_like(picture), **rest)[0])


def test_the_same_seed_gives_the_same_prompts_and_each_layer_its_own():
    one, same, other = llama(), llama(), llama()
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        add_llama_adapter(model, layers=2, rank=2, tokens=4, seed=seed)
    first, second = prompted_layers(one).values()
    assert torch.equal(first.static, prompted_layers(same)[2].static)
    assert not torch.equal(first.static, prompted_layers(other)[2].static)
    assert not torch.equal(first.static, second.static)


def test_on_a_bfloat16_model_what_is_trained_is_float32():
    model = llama().to(torch.bfloat16)
    add_llama_adapter(model, layers=2, rank=2, tokens=4, norms=False)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert model(IDS).logits.dtype == torch.bfloat16


def test_pictures_of_another_number_of_tokens_are_said():
    model = llama()
    add_llama_adapter(model, layers=2, rank=2, tokens=4)
    with pytest.raises(ModelError, match=r"(?s)has 4 prompts a layer, and a picture has 9 tokens.*Fix: .*tokens=9"):
        model.model(IDS, shown=torch.zeros(1, 9, 24))


def test_settings_out_of_range_are_said_all_at_once():
    model = llama()
    before = copy.deepcopy(model.state_dict())
    said = (
        r"(?s)tokens: must be a whole number of at least 1, got 0.*layers: must be 1 to 4, got 9.*rank: must be 1 to 24"
    )
    with pytest.raises(ModelError, match=said):
        add_llama_adapter(model, layers=9, tokens=0, rank=99)
    with pytest.raises(ModelError, match=r"(?s)layers: .* got '2'.*tokens: .* got True.*rank: .* got 1.5"):
        add_llama_adapter(model, layers="2", tokens=True, rank=1.5)
    assert model.state_dict().keys() == before.keys()
    assert all(parameter.requires_grad for parameter in model.parameters()), "nothing was touched"
    add_llama_adapter(model, layers=2, rank=2)
    with pytest.raises(ModelError, match=r"(?s)has adaption prompts already.*rank|has adaption prompts already"):
        add_llama_adapter(model, layers=1, rank=2)


@pytest.mark.parametrize("name", ["Qwen3", "Phi3"])
def test_attention_that_is_not_llamas_is_refused(name):
    """Qwen3 norms queries and keys, Phi-3's projections are one matrix."""
    config = getattr(transformers, f"{name}Config")(**SIZES, pad_token_id=0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with pytest.raises(ModelError, match=rf"(?s){name}DecoderLayer is not built as Llama's layers are.*Fix: use LoRA"):
        add_llama_adapter(model, layers=1, rank=2)


def test_it_goes_on_saved_models_as_kit_loads_them(tmp_path):
    from kit.models.language import load_language

    model, _ = load_language(f"local-dir:{write_language(tmp_path / 'llama')}")
    add_llama_adapter(model, layers=4, rank=2)
    assert len(gates(model)) == 4

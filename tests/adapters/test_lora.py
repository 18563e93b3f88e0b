"""LoRA does what its mathematics says, on every kind of layer, and says what it cannot do before anything changes."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from kit.adapters.lora import add_lora
from kit.adapters.lora_targets import adaptable
from kit.errors import ModelError

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = torch.arange(12).reshape(2, 6)


def llama(dtype=torch.float32):
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**settings, num_key_value_heads=2, vocab_size=50)).to(dtype).eval()


class Attention(nn.Module):
    """What open_clip's blocks do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


def trained(model):
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


@torch.no_grad()
def as_trained(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for one in trained(model).values():
        one.copy_(torch.randn(one.shape, generator=generator) * 0.3)
    return model


def test_the_chosen_layers_are_adapted_and_nothing_else_is_trained():
    model = add_lora(llama(), targets=SEVEN, layers=range(2, 4), rank=4)
    places = {name.split(".lora_")[0].removeprefix("base_model.model.model.") for name in trained(model)}
    assert len(places) == 14
    assert {place.split(".")[1] for place in places} == {"2", "3"}
    assert all("lora_" in name for name in trained(model))
    assert model.peft_config["default"].lora_alpha == 8
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, llama()(IDS).logits), "it starts as no change"


def test_a_linear_layer_by_hand():
    plain = nn.Sequential(nn.Linear(6, 5))
    model = as_trained(add_lora(copy.deepcopy(plain), targets=("0",), rank=3, alpha=4.5))
    a, b = (one.detach() for one in trained(model).values())
    weight = plain[0].weight + 1.5 * b @ a
    x = torch.randn(7, 6)
    assert torch.allclose(model(x), F.linear(x, weight, plain[0].bias), atol=1e-6)
    assert torch.allclose(model.merge_and_unload()[0].weight, weight, atol=1e-6)


def test_a_convolution_by_hand():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1))
    model = as_trained(add_lora(copy.deepcopy(plain), targets=("0",), rank=2, rslora=True))
    a, b = (one.detach() for one in trained(model).values())
    weight = plain[0].weight + 4 / 2**0.5 * torch.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    x = torch.randn(2, 4, 5, 5)
    assert torch.allclose(model(x), F.conv2d(x, weight, plain[0].bias, padding=1), atol=1e-5)
    assert torch.allclose(model.merge_and_unload()[0].weight, weight, atol=1e-6)


def by_hand(plain, x, a, b, *, scale):
    """Attention with the changed input projection, written out."""
    n, t, width = x.shape
    q, k, v = F.linear(x, plain.in_proj_weight + scale * b @ a, plain.in_proj_bias).chunk(3, -1)
    q, k, v = (one.view(n, t, 2, width // 2).transpose(1, 2) for one in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / (width // 2) ** 0.5).softmax(-1)
    return F.linear((weights @ v).transpose(1, 2).reshape(n, t, width), plain.out_proj.weight, plain.out_proj.bias)


def test_open_clips_attention_by_hand_outputs_gradients_and_merging():
    plain = Attention()
    model = as_trained(add_lora(copy.deepcopy(plain), targets=("attn",), rank=2, alpha=3))
    assert sorted(trained(model)) == [f"base_model.model.attn.lora_{one}.default.weight" for one in "AB"]
    x, asked = torch.randn(2, 3, 5, 8)
    pair = list(trained(model).values())
    expected = by_hand(plain.attn, x, *pair, scale=1.5)
    assert torch.allclose(model(x), expected, atol=1e-6)
    found = torch.autograd.grad((model(x) * asked).sum(), pair)
    for one, other in zip(found, torch.autograd.grad((expected * asked).sum(), pair), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x), expected, atol=1e-6), "torch's own fast path too"
        with model.disable_adapter():
            assert torch.allclose(model(x), plain(x), atol=1e-6)
        assert torch.allclose(model.merge_and_unload()(x), expected, atol=1e-6)


def test_running_attention_moves_no_frozen_weight():
    plain = Attention()
    model = as_trained(add_lora(copy.deepcopy(plain), targets=("attn",), rank=2))
    base = model.base_model.model.attn.base_layer
    for x in torch.randn(30, 2, 5, 8):
        model(x).sum().backward()
    assert torch.equal(base.in_proj_weight, plain.attn.in_proj_weight)
    assert torch.equal(base.out_proj.weight, plain.attn.out_proj.weight)


def test_peft_alone_adds_an_output_projection_twice():
    """Why kit leaves it alone; when this fails, PEFT is mended and ``_steady`` can train it."""
    plain = Attention()
    model = as_trained(get_peft_model(copy.deepcopy(plain), LoraConfig(r=2, lora_alpha=2, target_modules=["attn"])))
    out = model.base_model.model.attn.base_layer.out_proj
    delta = out.lora_B["default"].weight @ out.lora_A["default"].weight
    merged = model.merge_and_unload().attn.out_proj.weight
    assert torch.allclose(merged, plain.attn.out_proj.weight + 2 * delta, atol=1e-5)


@pytest.mark.parametrize("make", [Attention, llama], ids=["attention", "llama"])
def test_peft_alone_puts_it_on_the_base(make, tmp_path):
    targets = ("attn",) if make is Attention else SEVEN
    model = as_trained(add_lora(make(), targets=targets, rank=2))
    model.save_pretrained(tmp_path)
    x = IDS if make is llama else torch.randn(2, 5, 8)
    alone = PeftModel.from_pretrained(make(), tmp_path)
    with torch.no_grad():
        expected, found = (one(x).logits if make is llama else one(x) for one in (model, alone))
    assert torch.allclose(found, expected, atol=1e-6)


def test_weights_are_float32_on_a_bfloat16_base_and_follow_from_the_seed():
    bases = [llama(torch.bfloat16) for _ in range(2)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = add_lora(bases[0], rank=4, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = add_lora(bases[1], rank=4, seed=1)
    other = add_lora(llama(torch.bfloat16), rank=4, seed=2)
    assert {one.dtype for one in trained(model).values()} == {torch.float32}
    assert model.get_base_model().lm_head.weight.dtype == torch.bfloat16
    assert all(torch.equal(one, trained(again)[name]) for name, one in trained(model).items())
    assert not all(torch.equal(one, trained(other)[name]) for name, one in trained(model).items())


def test_a_pattern_gives_some_modules_another_rank_at_the_same_scale():
    model = add_lora(llama(), targets=SEVEN, rank=8, rank_pattern={"down_proj": 2, r"layers\.3\.mlp\.up_proj": 4})
    layers = model.base_model.model.model.layers
    assert [layers[0].mlp.down_proj.r["default"], layers[3].mlp.up_proj.r["default"]] == [2, 4]
    assert [layers[0].mlp.up_proj.r["default"], layers[0].mlp.down_proj.scaling["default"]] == [8, 2.0]


def test_dora_learns_sizes():
    names = set(trained(add_lora(llama(), dora=True)))
    assert sum("lora_magnitude_vector" in name for name in names) == 8


def test_a_module_trained_whole_is_saved_with_it(tmp_path):
    def model():
        torch.manual_seed(0)
        return nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 2)})

    wrapped = as_trained(add_lora(model(), targets=("body",), rank=2, whole=("head",)))
    assert sum("head" in name for name in trained(wrapped)) == 2
    wrapped.save_pretrained(tmp_path)
    alone = PeftModel.from_pretrained(model(), tmp_path)
    x = torch.randn(3, 4)
    assert torch.equal(alone.base_model.model["head"](x), wrapped.base_model.model["head"](x))


def test_a_name_that_ends_another_one_is_told_apart():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 4)
            self.tail = nn.ModuleDict({"head": nn.Linear(4, 4)})

    for asked in (r"head", ("head",)):
        model = add_lora(Tower(), targets=asked, rank=2)
        assert {name.split(".lora")[0] for name in trained(model)} == {"base_model.model.head"}


def test_what_can_be_adapted_is_listed():
    bert = BertModel(BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24))
    found = [name.removeprefix("encoder.layer.1.") for name in adaptable(bert, [1])]
    attention = [f"attention.self.{one}" for one in ("query", "key", "value")]
    assert found == [*attention, "attention.output.dense", "intermediate.dense", "output.dense"]
    assert len(adaptable(llama())) == 4 * 7
    assert adaptable(nn.ModuleDict({"layers": nn.ModuleList([Attention()])})) == ["layers.0.attn"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"targets": ("q_prj",)}, r"'q_prj' fits no module\. Did you mean 'q_proj'\?"),
        ({"targets": ("norm",)}, r"'norm' is a LlamaRMSNorm \(model\.norm\), and LoRA cannot go into it"),
        ({"targets": ()}, "names no module"),
        ({"rank": 0}, "rank: must be a whole number of at least 1, got 0"),
        ({"rank": 17}, r"rank: is 17, and a change of self_attn\.v_proj has at most 16"),
        ({"alpha": 0}, "alpha: must be a number above 0, got 0"),
        ({"dropout": 1.0}, "dropout: must be a share"),
        ({"layers": [3, 4]}, "layers: 4: there are only layers 0 to 3"),
        ({"layers": []}, "none of the targets lies in layers"),
        ({"targets": ("lm_head",), "layers": [0]}, "the targets lie in no numbered layers"),
        ({"rank_pattern": {"v_prj": 2}}, r"'v_prj' is none of the targets\."),
        ({"rank_pattern": {"v_proj": 0}}, r"rank_pattern\.v_proj: must be a whole number"),
        ({"rank_pattern": {"v_proj": 20}}, r"rank: is 20, and a change of self_attn\.v_proj has at most 16"),
        ({"whole": ("lm_hed",)}, r"'lm_hed' is no module\. Did you mean 'lm_head'\?"),
    ],
)
def test_what_cannot_be_is_said_and_the_model_is_as_it_was(asked, says):
    model = llama()
    with pytest.raises(ModelError, match=says):
        add_lora(model, **asked)
    assert all(one.requires_grad for one in model.parameters())
    assert not any("lora" in name for name, _ in model.named_modules())


def test_all_faults_come_at_once():
    with pytest.raises(ModelError) as caught:
        add_lora(llama(), targets=("q_prj", "v_proj"), rank=17, alpha=-1, dropout=2, layers=[9])
    assert len(caught.value.faults) == 5


@pytest.mark.parametrize("asked", [{"dora": True}, {"dropout": 0.1}])
def test_what_peft_has_not_for_attention_is_refused(asked):
    (name,) = asked
    with pytest.raises(ModelError, match=rf"lora: {name}: PEFT has none for nn\.MultiheadAttention \(attn\)"):
        add_lora(Attention(), targets=("attn",), **asked)


def test_an_adapter_that_would_never_be_called_is_refused():
    with pytest.raises(ModelError, match=r"'attn\.out_proj' is a NonDynamicallyQuantizableLinear"):
        add_lora(Attention(), targets=("attn.out_proj",))
    with pytest.raises(ModelError, match="is a Conv2d"):
        add_lora(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), targets=("0",))


def test_layers_of_two_towers_and_a_second_adapter_are_refused():
    both = nn.ModuleDict({"one": llama(), "two": llama()})
    with pytest.raises(ModelError, match=r"several stacks of layers: one\.model\.layers, two\.model\.layers"):
        add_lora(both, layers=[1])
    model = llama()
    add_lora(model)
    with pytest.raises(ModelError, match="the model has LoRA already"):
        add_lora(model)

"""Activations computed again give the same gradients, and leave frozen layers below the adapter alone."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from kit.errors import ModelError
from kit.training.recompute import recompute_activations


def adapter(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 50}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=4))
    return get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False, **options)).train()


def gradients(model):
    ids = torch.arange(20).reshape(2, 10)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def runs(model):
    """How often each layer's attention ran in a forward and backward."""
    counts = [0] * 4
    for place, layer in enumerate(model.get_base_model().model.layers):

        def count(*_, place=place):
            counts[place] += 1

        layer.self_attn.register_forward_pre_hook(count)
    gradients(model)
    return counts


def test_gradients_are_the_same():
    plain, again = adapter(), adapter()
    recompute_activations(again)
    for one, other in zip(gradients(plain), gradients(again), strict=True):
        assert torch.equal(one, other)
        assert one.abs().max() > 0


def test_only_layers_that_gradients_reach_run_twice():
    model = adapter(layers_to_transform=[2])
    recompute_activations(model)
    assert runs(model) == [1, 1, 2, 2]


def test_it_can_be_turned_off_and_does_not_count_in_evaluation():
    model = adapter()
    recompute_activations(model)
    recompute_activations(model, on=False)
    assert runs(model) == [1] * 4
    recompute_activations(model)
    evaluating = copy.deepcopy(model).eval()
    assert runs(evaluating) == [1] * 4


def test_a_model_that_cannot_says_so():
    with pytest.raises(ModelError, match=r"(?s)Linear cannot compute its activations again.*raise accumulate instead"):
        recompute_activations(nn.Linear(2, 2))

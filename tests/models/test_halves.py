"""A language model in two halves: transformers' own numbers, or a clear no."""

import pytest
import torch
import transformers

from kit.errors import ModelError
from kit.models.halves import check_cut, lower, positions, trunk, upper

IDS = torch.tensor([[3, 9, 4, 7, 1, 8], [5, 6, 2, 9, 9, 4]])
SEEN = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
SIZES = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 3,
    "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def tiny(name, **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings})
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model.requires_grad_(False)


@pytest.mark.parametrize("cut", [0, 1, 3])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma3Text", "Olmo2", "Phi3"])
def test_both_halves_are_the_whole_left_padding_and_caches_included(name, cut):
    model = tiny(name)
    check_cut(model, cut)
    places = (SEEN.cumsum(1) - 1).clamp(min=0)
    whole = model(IDS, attention_mask=SEEN, position_ids=places).logits[SEEN]

    def halves(ids, mask, past=None):
        middle = lower(model, cut)(model.get_input_embeddings()(ids), mask, past)
        return model.get_output_embeddings()(upper(model, cut)(middle, mask, past))

    torch.testing.assert_close(halves(IDS, SEEN)[SEEN], whole, rtol=1e-4, atol=1e-4)
    past = transformers.DynamicCache()
    steps = [halves(IDS[:, a:b], SEEN[:, :b], past) for a, b in ((0, 3), (3, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(steps, 1)[SEEN], whole, rtol=1e-4, atol=1e-4)


def test_the_model_itself_is_left_as_it_is():
    model = tiny("Gemma3Text")
    types, before = list(model.config.layer_types), model(IDS).logits
    upper(model, 2)(lower(model, 2)(model.get_input_embeddings()(IDS), SEEN), SEEN)
    assert len(trunk(model).layers) == 4
    assert list(trunk(model).config.layer_types) == types
    assert torch.equal(model(IDS).logits, before)


@pytest.mark.parametrize(
    ("name", "settings", "wrong", "fix"),
    [
        ("Granite", {"embedding_multiplier": 3.0}, [2], "let the picture enter at layer 0"),
        ("Granite", {"logits_scaling": 8.0}, [0, 2], "name another language model"),
        ("Gemma2", {"final_logit_softcapping": 2.0}, [0, 2], "name another language model"),
        ("Cohere", {}, [0, 2], "name another language model"),
    ],
)
def test_models_that_do_more_than_run_their_layers_are_refused(name, settings, wrong, fix):
    model = tiny(name, **settings)
    for cut in (0, 2):
        if cut not in wrong:
            check_cut(model, cut)
            continue
        said = rf"(?s){name}ForCausalLM: computes more than its layers .*cut at layer {cut}.*Fix: {fix}"
        with pytest.raises(ModelError, match=said):
            check_cut(model, cut)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Mistral", {"sliding_window": 9}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}),
        ("Gemma3Text", {"sliding_window": 9}),
    ],
)
def test_a_text_longer_than_the_window_is_an_error_and_not_another_answer(name, settings):
    model = tiny(name, **settings)
    check_cut(model, 1)
    hidden = torch.randn(1, 10, 24)
    upper(model, 1)(hidden[:, :9], torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(ModelError, match=r"looks back over 9 tokens, and a text has 10"):
        upper(model, 1)(hidden, torch.ones(1, 10, dtype=torch.bool))


def test_bfloat16_is_rough_but_no_other_model():
    check_cut(tiny("Llama").to(torch.bfloat16), 2)


def test_a_model_without_such_layers_is_said():
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=2))
    with pytest.raises(ModelError, match="GPT2LMHeadModel: has no decoder layers that a picture could enter at"):
        trunk(model)


def test_positions_count_what_may_be_looked_at():
    assert positions(SEEN).tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]

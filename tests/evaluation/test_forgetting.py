"""Perplexity against transformers' own loss and a token-by-token loop; forgetting against the unwrapped base only."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kit.data.prose import Passage, load_prose
from kit.errors import DataError, ModelError
from kit.evaluation.forgetting import forgetting, perplexity_ratio, text_loss, windows
from kit.intervals import bootstrap
from kit.models.prompts import PromptedAttention
from kit.result import Result


class Letters:
    """A tokenizer of one token a letter, as tokenizers are called."""

    def __call__(self, text, return_tensors):
        return {"input_ids": torch.tensor([[ord(letter) % 64 for letter in text]])}


def passages(*texts, document=None):
    return [Passage(f"{i}", text, document or f"d{i}") for i, text in enumerate(texts)]


TEXT = passages(*(" ".join(f"{word}{i}" for word in ("the", "quick", "fox", "jumps", "over")) for i in range(12)))


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, attention_dropout=0.5, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).train()


def lora(model, scale=0.5):
    """Return a copy with a LoRA that changes something; the copy itself is what PEFT changed."""
    from peft import LoraConfig, get_peft_model

    inner = copy.deepcopy(model)
    wrapped = get_peft_model(inner, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale)
    return wrapped, inner


@torch.no_grad()
def own_loss(model, ids):
    """transformers' own: labels are shifted in the model, and the mean is over all tokens but the first."""
    return float(copy.deepcopy(model).eval()(input_ids=ids, labels=ids).loss)


@torch.no_grad()
def by_hand(model, ids, *, context, stride):
    """Each token alone: its own forward pass over exactly the tokens that its window shows before it."""
    model = copy.deepcopy(model).eval()
    n, nats = len(ids), []
    for place in range(1, n):
        begin = 0
        while min(begin + context, n) <= place:  # the first window that reaches it scores it
            begin += stride
        log_p = model(input_ids=ids[begin:place][None]).logits[0, -1].double().log_softmax(-1)
        nats.append(-float(log_p[ids[place]]))
    return nats


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and a count of what is computed there."""
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    monkeypatch.setenv("KIT_CACHE_LOG", str(tmp_path / "log"))
    return lambda: [json.loads(line)["computed"] for line in (tmp_path / "log").read_text().splitlines()]


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_below_the_cut_windows_are_read_once_for_all_models(llama, home, cut):
    wanted = text_loss(llama, Letters(), TEXT, context=96, stride=48)
    found = text_loss(llama, Letters(), TEXT, context=96, stride=48, cut=cut)
    assert found.nats == pytest.approx(wanted.nats, abs=1e-4)
    assert (found.documents, found.scored) == (wanted.documents, wanted.scored)
    assert sum(home()) > 0
    again = text_loss(llama, Letters(), TEXT, context=96, stride=48, cut=cut)
    assert again.nats.tolist() == found.nats.tolist()
    assert home()[len(home()) // 2 :] == [0] * (len(home()) // 2)


def test_an_adapter_above_the_cut_reads_what_is_kept_and_one_below_is_refused(llama, home):
    from peft import LoraConfig, get_peft_model

    text_loss(llama, Letters(), TEXT, context=96, stride=48, cut=1)
    before = len(home())
    wrapped = get_peft_model(copy.deepcopy(llama), LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1]))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    found = text_loss(wrapped.base_model.model, Letters(), TEXT, context=96, stride=48, cut=1)
    assert home()[before:] == [0] * before
    assert found.nats == pytest.approx(text_loss(wrapped, Letters(), TEXT, context=96, stride=48).nats, abs=1e-4)
    with pytest.raises(ModelError, match="is above an adapter"):
        text_loss(wrapped.base_model.model, Letters(), TEXT, context=96, stride=48, cut=2)


def test_one_window_is_transformers_own_loss(llama):
    found = text_loss(llama, Letters(), TEXT[:1], context=128, stride=64)
    ids = Letters()(TEXT[0].text, "pt")["input_ids"]
    assert len(found.nats) == ids.shape[1] - 1
    assert found.nats.mean() == pytest.approx(own_loss(llama, ids), abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(own_loss(llama, ids)), rel=1e-5)
    assert found.bits == pytest.approx(own_loss(llama, ids) / math.log(2), abs=1e-5)


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 15), (9, 1), (2, 1), (128, 127)])
def test_windows_are_those_of_a_token_by_token_loop(llama, context, stride):
    found = text_loss(llama, Letters(), TEXT[:1], context=context, stride=stride)
    ids = Letters()(TEXT[0].text, "pt")["input_ids"][0]
    assert found.nats == pytest.approx(by_hand(llama, ids, context=context, stride=stride), abs=1e-5)


def test_unshifted_labels_would_be_another_number(llama):
    """What peft 3419 was about: position t's logits against token t."""
    ids = Letters()(TEXT[0].text, "pt")["input_ids"]
    with torch.no_grad():
        logits = copy.deepcopy(llama).eval()(input_ids=ids).logits[0]
    unshifted = float(torch.nn.functional.cross_entropy(logits, ids[0]))
    assert abs(text_loss(llama, Letters(), TEXT[:1], context=128, stride=64).nats.mean() - unshifted) > 0.1


@given(st.integers(0, 60), st.integers(2, 20), st.data())
def test_every_token_but_the_first_is_scored_once(tokens, context, data):
    stride = data.draw(st.integers(1, context - 1))
    scored = []
    for begin, first, end in windows(tokens, context=context, stride=stride):
        assert end - begin <= context
        assert first > begin, "a window's first token has no context in it"
        assert begin == 0 or first - begin >= context - stride
        scored += range(first, end)
    assert scored == list(range(1, tokens))


def test_a_model_trains_on_afterwards_as_before(llama):
    llama.model.norm.eval()
    before = {name: module.training for name, module in llama.named_modules()}
    text_loss(llama, Letters(), TEXT[:1], context=32, stride=16)
    assert {name: module.training for name, module in llama.named_modules()} == before
    assert before[""]
    assert not before["model.norm"]


def test_forgetting_by_hand(llama):
    base = text_loss(llama, Letters(), TEXT, context=32, stride=16)
    wrapped, _ = lora(llama)
    adapted = text_loss(wrapped, Letters(), TEXT, context=32, stride=16)
    found = forgetting(base, adapted)
    assert list(found) == ["base_perplexity", "adapted_perplexity", "perplexity_ratio", "forgotten_bits"]
    mean = [sum(one.nats) / len(one.nats) for one in (base, adapted)]
    assert found["base_perplexity"].value == pytest.approx(math.exp(mean[0]))
    assert found["adapted_perplexity"].value == pytest.approx(math.exp(mean[1]))
    ratio = found["perplexity_ratio"]
    assert ratio.value == pytest.approx(found["adapted_perplexity"].value / found["base_perplexity"].value)
    expected = bootstrap(adapted.nats - base.nats, clusters=base.documents)
    assert (ratio.low, ratio.high) == (math.exp(expected.low), math.exp(expected.high))
    assert ratio.low < ratio.value < ratio.high
    assert found["forgotten_bits"].value == pytest.approx(math.log2(ratio.value))
    assert (ratio.n, ratio.better, ratio.split) == (len(base.nats), "lower", "prose")
    assert "windows of 32 tokens, stride 16" in ratio.method
    assert "12 documents; percentile bootstrap over clusters" in ratio.method
    Result(found)


def test_a_model_that_was_not_changed_forgot_nothing(llama):
    base = text_loss(llama, Letters(), TEXT[:3], context=32, stride=16)
    wrapped, _ = lora(llama, scale=0.0)
    ratio = forgetting(base, text_loss(wrapped, Letters(), TEXT[:3], context=32, stride=16))["perplexity_ratio"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1), abs=1e-6)


def test_a_wrapped_base_is_refused(llama):
    """PEFT changes the model that it wraps: the caller's own name for the base holds an adapted model now."""
    wrapped, inner = lora(llama)
    adapted = text_loss(wrapped, Letters(), TEXT[:3], context=32, stride=16)
    for model in (wrapped, inner):
        base = text_loss(model, Letters(), TEXT[:3], context=32, stride=16)
        with pytest.raises(ModelError, match=r"forgetting: base: was measured with .* adapter layers"):
            forgetting(base, adapted)
    with wrapped.disable_adapter():
        base = text_loss(wrapped, Letters(), TEXT[:3], context=32, stride=16)
    with pytest.raises(ModelError, match="right after loading"):
        forgetting(base, adapted)
    plain = wrapped.unload()
    assert not text_loss(plain, Letters(), TEXT[:3], context=32, stride=16).adapters


def test_a_child_is_compared_with_its_parent(llama):
    parent, _ = lora(llama, scale=0.2)
    child, _ = lora(llama, scale=0.6)
    before, after = (text_loss(model, Letters(), TEXT, context=16, stride=8) for model in (parent, child))
    found = perplexity_ratio(before, after)
    assert found.value == pytest.approx(after.perplexity / before.perplexity)
    assert found.low < found.value < found.high
    assert not found.faults("ratio")
    assert perplexity_ratio(before, before).value == 1
    with pytest.raises(DataError, match="parent and child did not score the same tokens"):
        perplexity_ratio(before, text_loss(child, Letters(), TEXT, context=16, stride=4))


def test_kits_own_prompts_are_adapters(llama):
    prompted = copy.deepcopy(llama)
    attention = prompted.model.layers[1].self_attn
    prompted.model.layers[1].self_attn = PromptedAttention(attention, tokens=2, rank=2, seed=0)
    found = text_loss(prompted, Letters(), TEXT[:2], context=32, stride=16)
    assert found.adapters == ("model.layers.1.self_attn",)
    with pytest.raises(ModelError, match="1 adapter layers on it, the first of them"):
        forgetting(found, found)


def test_other_text_or_windows_are_not_compared(llama):
    base = text_loss(llama, Letters(), TEXT[:3], context=32, stride=16)
    for other in (
        text_loss(llama, Letters(), TEXT[:3], context=32, stride=8),
        text_loss(llama, Letters(), TEXT[3:6], context=32, stride=16),
    ):
        with pytest.raises(DataError, match="did not score the same tokens"):
            forgetting(base, other)


def test_all_faults_at_once(llama):
    with pytest.raises(DataError) as caught:
        text_loss(llama, Letters(), [], context=256, stride=256)
    assert [fault.what for fault in caught.value.faults] == [
        "there are no passages",
        "a window of 256 tokens every 256 leaves tokens without context",
        "context 256 is more than the 128 tokens that the model reads",
    ]
    with pytest.raises(DataError, match="no passage has two tokens"):
        text_loss(llama, Letters(), passages("x"), context=8, stride=4)


@pytest.mark.weights
def test_smollm2_on_pythons_manual():
    from kit.models.language import load_language

    model, tokenizer = load_language("smollm2-135m")
    rows = load_prose(limit=2)
    found = text_loss(model, tokenizer, rows, context=512, stride=256)
    total = count = 0.0
    for row in rows:
        ids = tokenizer(row.text, return_tensors="pt")["input_ids"]
        total += own_loss(model, ids) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert len(found.nats) == count
    assert found.nats.mean() == pytest.approx(total / count, abs=1e-4)
    assert 5 < found.perplexity < 40
    words_by_name = Passage("sorted", " ".join(sorted(rows[0].text.split())), "d")
    assert text_loss(model, tokenizer, [words_by_name]).perplexity > 3 * found.perplexity

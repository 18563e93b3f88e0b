"""A bank: each adapter on the model is what PEFT loads, exchanging is exact, and rows come back in their order."""

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import tiny_stitch
from test_merge import specialist

from kit.adapters.bank import Bank, read_adapter
from kit.data.rows import Question
from kit.errors import BundleError, ModelError
from kit.models.activations import ActivationStore
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail

ROWS = [
    Question(f"r{number}", picture, "What colour is it?", "red")
    for number, picture in enumerate(noise_pictures(2, size=32))
]
PROMPTS = ["What colour?", "Which shape is it?", "How many?", "Is it red?"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, tiny_vision, tiny_language):
    root = tmp_path_factory.mktemp("bank")
    options = {"a": {}, "b": {"rank": 2, "alpha": 7.0, "rslora": True}, "c": {"targets": ("q_proj", "v_proj")}}
    return {
        name: specialist(root / name, tiny_vision, tiny_language, seed=seed, **options[name])
        for seed, name in enumerate(options, 1)
    }


@pytest.fixture
def bank(bundles):
    return Bank.open(bundles, device="cpu")


@torch.no_grad()
def logits(model, prompts=PROMPTS):
    asked = model.processor(text=list(prompts), return_tensors="pt", padding=True)
    return model.model(**asked).logits


def test_each_adapter_on_the_model_is_what_its_bundle_loads(bank, bundles, tiny_vision, tiny_language):
    for name in ("a", "b", "c", "a"):
        bank.use(name)
        assert bank.current == name
        torch.testing.assert_close(logits(bank.model), logits(bundles[name].load(device="cpu")), rtol=1e-4, atol=1e-5)
    bank.use(None)
    plain = tiny_stitch(tiny_vision, tiny_language, entry_layer=2)
    torch.testing.assert_close(logits(bank.model), logits(plain), rtol=0, atol=0)


def test_exchanging_a_thousand_times_moves_nothing(bank):
    bank.use("a")
    before = logits(bank.model)
    for _ in range(330):
        for name in ("b", None, "c"):
            bank.use(name)
    bank.use("a")
    assert torch.equal(logits(bank.model), before)


def test_adapters_take_their_own_size_and_more_can_come_and_go(bank, bundles):
    own = sum(one.numel() * 4 for bundle in bundles.values() for pair in read_adapter(bundle).values() for one in pair)
    assert bank.bytes_held == own
    for number in range(100):
        bank.put(f"more {number}", bundles["c"])
    assert len(bank.names) == 103
    assert bank.bytes_held == own + 100 * sum(
        one.numel() * 4 for pair in read_adapter(bundles["c"]).values() for one in pair
    )
    bank.use("more 7")
    bank.remove("more 7")
    assert bank.current is None
    with pytest.raises(ModelError, match=r"(?s)no adapter 'more 7'. Did you mean 'more"):
        bank.use("more 7")


def test_one_that_is_exchanged_while_it_is_on_the_model_is_seen_at_once(bank, bundles):
    bank.use("a")
    bank.put("a", bundles["c"])
    torch.testing.assert_close(logits(bank.model), logits(bundles["c"].load(device="cpu")), rtol=1e-4, atol=1e-5)


def test_rows_go_by_adapter_and_come_back_in_order(bank, bundles):
    calls = []

    def run(rows):
        calls.append((bank.current, list(rows)))
        return logits(bank.model, [PROMPTS[row] for row in rows])[:, -1].argmax(-1).tolist()

    bank.use("b")
    names = ["a", "b", None, "b"]
    found = bank.by_adapter(names, run)
    assert calls == [("b", [1, 3]), ("a", [0]), (None, [2])], "what is on the model goes first, and each once"
    for row, name in enumerate(names):
        bank.use(name)
        assert found[row] == logits(bank.model, [PROMPTS[row]])[0, -1].argmax()
    with pytest.raises(ModelError, match="no adapter 'z'"):
        bank.by_adapter(["a", "z"], run)


def test_a_cut_model_goes_on_with_the_new_adapter(bank, bundles, tmp_path):
    store = ActivationStore(tmp_path)
    cut = LanguageCut(bank.model, store)
    tail = LanguageTail(cut)
    packs = cut.packs(ROWS)
    found = {}
    for name in ("a", "b"):
        bank.use(name)
        found[name] = tail(packs.draw(np.arange(2)))
        other = LanguageCut(bundles[name].load(device="cpu"), store)
        expected = LanguageTail(other)(other.packs(ROWS).draw(np.arange(2)))
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["a"], found["b"])


def test_who_shares_no_projector_or_has_no_place_is_refused(tmp_path, bank, bundles, tiny_vision, tiny_language):
    other = specialist(tmp_path / "other", tiny_vision, tiny_language, seed=2, projector=0.1)
    with pytest.raises(BundleError, match=r"(?s)projectors differ.*one frozen projector"):
        Bank.open({"a": bundles["a"], "other": other})
    large = specialist(tmp_path / "large", tiny_vision, tiny_language, seed=2, rank=9)
    with pytest.raises(ModelError, match=r"(?s)has rank 9 at .*and the place has 4.*rank="):
        bank.put("large", large)
    roomy = Bank.open(bundles, rank=9, device="cpu")
    roomy.put("large", large)
    roomy.use("large")
    torch.testing.assert_close(logits(roomy.model), logits(large.load(device="cpu")), rtol=1e-4, atol=1e-5)

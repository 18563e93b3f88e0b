"""What is above the cut: which layers are computed quickly, and adapters that are switched off or merged."""

import pytest
import torch
import transformers
from stitched_models import tiny_stitch
from test_language_cut import LORA, ROWS, adapted, drawn

from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.models.activations import ActivationStore
from kit.models.chat import Chat
from kit.models.halves import trunk
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail, quick_fits
from kit.training.tail_loss import TailLoss


@torch.no_grad()
def losses(model, tail, batch):
    """Return the tail's loss and the whole model's."""
    return TailLoss()(tail, batch).item(), model.model(**Chat.of(model).batch(ROWS)).loss.item()


@pytest.mark.parametrize("options", [{}, {"dora": True}], ids=["quick", "plain"])
def test_adapters_that_are_switched_off_or_merged_are_so_in_the_tail(tiny_vision, tiny_language, tmp_path, options):
    model = adapted(tiny_vision, tiny_language, entry_layer=2, lora={**LORA, **options})
    cut = LanguageCut(model, ActivationStore(tmp_path))
    tail, batch = LanguageTail(cut), drawn(cut.packs(ROWS))
    assert tail.quick is not bool(options)
    on, whole = losses(model, tail, batch)
    assert on == pytest.approx(whole, rel=1e-5)
    with model.language.disable_adapter():
        off, whole = losses(model, tail, batch)
        assert off == pytest.approx(whole, rel=1e-5)
    assert off != pytest.approx(on, rel=1e-3)
    assert losses(model, tail, batch)[0] == on
    model.language.merge_adapter()
    merged = LanguageTail(cut)
    assert not merged.quick
    assert losses(model, merged, batch)[0] == pytest.approx(on, rel=1e-4)


def test_two_adapters_of_which_one_is_active(tiny_vision, tiny_language, tmp_path):
    from peft import LoraConfig

    model = adapted(tiny_vision, tiny_language, entry_layer=2)
    config = LoraConfig(r=2, target_modules=["up_proj"], layers_to_transform=[2, 3], layers_pattern="layers")
    model.language.add_adapter("other", config)
    for name, parameter in model.language.named_parameters():
        if "lora_B.other" in name:
            parameter.data.normal_(0, 2.0, generator=torch.Generator().manual_seed(2))
    found = []
    for name in ("default", "other"):
        model.language.set_adapter(name)
        cut = LanguageCut(model, ActivationStore(tmp_path))
        tail, batch = LanguageTail(cut), drawn(cut.packs(ROWS))
        assert tail.quick
        assert all(f"/{name}/" in each for each in tail.adapters)
        one, whole = losses(model, tail, batch)
        assert one == pytest.approx(whole, rel=1e-5)
        found.append(one)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_its_identity_is_that_of_everything_frozen_and_of_what_adapters_do(tiny_vision, tiny_language, tmp_path):
    def identity(change=lambda model: None, *, dtype=torch.float32, **options):
        model = adapt_language(tiny_stitch(tiny_vision, tiny_language, entry_layer=2), **{"rank": 2, **options})
        change(model)
        found = LanguageTail(LanguageCut(model, ActivationStore(tmp_path)), dtype=dtype).state_dict()["identity"]
        return bytes(found.tolist())

    def moved(name):
        def change(model):
            trunk(model.language).get_submodule(name).weight.data[..., 0] += 1e-3

        return change

    same = identity()
    assert len(same) == 32
    assert identity() == same
    assert identity(lambda model: model.projector.place.data.add_(1)) == same, "what is trained has its own weights"
    others = [
        identity(alpha=9.0), identity(rslora=True), identity(dropout=0.1), identity(dtype=torch.bfloat16),
        identity(moved("layers.2.mlp.up_proj.base_layer")), identity(moved("layers.3.input_layernorm")),
        identity(moved("norm")), identity(moved("embed_tokens")),
    ]  # fmt: skip
    assert len({same, *others}) == 9, "the embeddings are the head"


def llama(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, **settings)
    return transformers.LlamaForCausalLM(config).requires_grad_(False)


def test_which_models_and_layers_are_quick():
    def fits(language):
        return quick_fits(language, list(trunk(language).layers))

    assert fits(llama())
    assert fits(llama(attention_bias=True, mlp_bias=True))
    assert not fits(llama(hidden_act="gelu"))
    assert not fits(llama(attention_dropout=0.1))
    prompted = llama()
    add_llama_adapter(prompted, layers=1, rank=2)
    assert fits(prompted)
    whole = llama()
    trunk(whole).layers[1].mlp.up_proj.requires_grad_(True)
    assert not fits(whole), "trained whole, its weight would be copied once"

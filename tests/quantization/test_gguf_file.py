"""GGUF: written here, read by transformers alone (by llama.cpp where it is installed), with tokenizer and template."""

import pytest
import torch
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import save_bundle
from kit.adapters.llama_adapter import add_llama_adapter
from kit.errors import ModelError
from kit.manifest import verify
from kit.models.language import load_language
from kit.quantization.export import GGUF, export
from kit.quantization.gguf_file import write_gguf

TALK = [{"role": "user", "content": "What is 12?"}]


def read(folder, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    settings = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=settings
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bits", "most"), [(8, 0.1), (4, 1.5)])
def test_transformers_reads_what_was_written(tmp_path, tied, bits, most):
    folder = write_language(tmp_path / "llama", intermediate_size=128, tie_word_embeddings=tied)
    language, tokenizer = load_language(f"local-dir:{folder}")
    write_gguf(tmp_path / "m.gguf", language, tokenizer, bits=bits, name="Tiny")
    alone, words = read(tmp_path, "m.gguf")
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        apart = (alone(input_ids=ids).logits - language(input_ids=ids).logits).abs().max()
    assert 1e-4 < apart < most
    text = "Why is the sky blue in 1234?"
    assert words(text)["input_ids"] == tokenizer(text)["input_ids"]
    said = [each.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) for each in (words, tokenizer)]
    assert said[0] == said[1]
    assert words.eos_token == tokenizer.eos_token


def test_rows_of_rotary_pairs_are_where_llama_cpp_looks_for_them(tmp_path, language):
    # transformers puts them back, so its own reading could not tell; the format's rule can.
    import gguf
    import numpy as np

    model, tokenizer = load_language(f"local-dir:{language}")
    write_gguf(tmp_path / "m.gguf", model, tokenizer, bits=8)
    tensors = {one.name: one for one in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    found = gguf.quants.dequantize(tensors["blk.1.attn_q.weight"].data, tensors["blk.1.attn_q.weight"].tensor_type)
    weight = model.model.layers[1].self_attn.q_proj.weight.detach().numpy()
    size = 16
    for head in range(4):
        for pair in range(size // 2):
            for half in range(2):
                own = weight[head * size + half * size // 2 + pair]
                np.testing.assert_allclose(found[head * size + 2 * pair + half], own, atol=0.01)


def test_an_export_is_gated_on_text_and_says_that_it_is_blind(bundle, tmp_path):
    found = export(bundle, "gguf", tmp_path / "gguf")
    assert found.folder is not None, found.gate
    assert 1e-4 < found.gate.max_logit < 0.2
    assert "holds the text part alone" in (found.folder / "README.md").read_text()
    assert verify(found.folder).parents == {"Seeing": bundle.manifest.digest()}
    _, words = read(found.folder, GGUF)
    processor = bundle.load(device="cpu").processor
    expected = processor.apply_chat_template(TALK, add_generation_prompt=True)
    assert words.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True) == expected


def test_llama_cpp_reads_it(bundle, tmp_path):
    import importlib.util

    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed; it compiles for minutes")
    from llama_cpp import Llama

    found = export(bundle, "gguf", tmp_path / "gguf")
    assert Llama(str(found.folder / GGUF), verbose=False)("Why", max_tokens=2)["choices"]


def test_prompted_models_are_refused(tiny_vision, language, tmp_path):
    model = tiny_stitch(tiny_vision, language, prompted=True)
    add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
    prompts = save_bundle(tmp_path / "prompts", model, name="Prompts")
    with pytest.raises(ModelError, match="sees by adaption prompts"):
        export(prompts, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()

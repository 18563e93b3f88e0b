"""Language models: transformers' own logits, pinned, whole, and clear about what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kit.errors import ModelError
from kit.models.language import language_folder, load_language

IDS = torch.tensor([[1, 20, 30, 40]])


def test_a_folder_gives_transformers_logits_frozen_and_in_evaluation(tiny_language):
    model, tokenizer = load_language(f"local-dir:{tiny_language}")
    plain = AutoModelForCausalLM.from_pretrained(tiny_language)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain(IDS).logits)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert model.dtype == torch.float32
    assert load_language(f"local-dir:{tiny_language}", dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert tokenizer("<file_sep>")["input_ids"] == [tokenizer.convert_tokens_to_ids("<file_sep>")]
    assert language_folder(f"local-dir:{tiny_language}") == tiny_language


def test_a_tokenizer_without_a_padding_token_pads_with_its_end(tiny_language, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(tiny_language, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": None}))
    _, tokenizer = load_language(f"local-dir:{folder}")
    assert tokenizer.pad_token == "<|im_end|>"


def test_nothing_of_transformers_own_bars_is_shown(tiny_language, capsys):
    load_language(f"local-dir:{tiny_language}")
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


HUB = """
import sys
from kit.models.language import language_folder, load_language
for source in sys.argv[1:]:
    model, _ = load_language(source)
    print(language_folder(source).name, model.config.num_hidden_layers)
"""


def test_the_hubs_commit_is_what_is_loaded(tiny_language, tmp_path):
    # The Hub's own cache layout, without the Hub: two commits, of which main is the second.
    from stitched_models import write_language

    store = tmp_path / "hub" / "models--org--tiny"
    (store / "refs").mkdir(parents=True)
    shutil.copytree(tiny_language, store / "snapshots" / ("a" * 40))
    write_language(store / "snapshots" / ("b" * 40), num_hidden_layers=3)
    (store / "refs" / "main").write_text("b" * 40)
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB, "hf:org/tiny", f"hf:org/tiny@{'a' * 40}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["b" * 40, "3", "a" * 40, "4"]
    gone = subprocess.run([*command[:3], f"hf:org/tiny@{'c' * 40}"], env=env, capture_output=True, text=True)
    assert "ModelError" in gone.stderr
    assert "cannot be downloaded" in gone.stderr


def _state(change):
    def apply(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def _narrow(state):
    state["model.layers.1.mlp.down_proj.weight"] = state["model.layers.1.mlp.down_proj.weight"][:1].contiguous()


def _pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def _unlink(name):
    return lambda folder: (folder / name).unlink()


def _other_type(folder):
    (folder / "config.json").write_text('{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}')


def _no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _state(lambda state: state.pop("model.norm.weight")),
            r"(?s)its checkpoint lacks model.norm.weight.*Fix: check",
        ),
        (_state(_narrow), r"layers.1.mlp.down_proj.weight has shape \(1, 96\) in its checkpoint and \(64, 96\) by its"),
        (_pickled, r"(?s)weights cannot be loaded.*Fix: give its weights as safetensors; kit opens no pickles"),
        (_adapter, r"(?s)holds an adapter and not the model below it.*Fix: name a folder"),
        (_unlink("config.json"), "holds no config.json"),
        (_unlink("model.safetensors"), "weights cannot be loaded"),
        (_other_type, r"(?s)is a 'llava' model, which is no language model by itself.*load_vision_language"),
        (_no_tokenizer, "its tokenizer cannot be loaded"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tiny_language, tmp_path, change, said):
    folder = tmp_path / "llama"
    shutil.copytree(tiny_language, folder)
    change(folder)
    with pytest.raises(ModelError, match=said):
        load_language(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("efficientnet-lite0", r"(?s)is no language model.*Allowed: smollm2-135m, hf:"),
        ("minilm-l6", r"(?s)is a text tower, which writes no text.*Fix: load its stitch with load_dual_encoder"),
        ("stitch:efficientnet-lite0+smollm2-135m", "is no language model"),
        ("open_clip:ViT-B-32/openai", "is no language model"),
    ],
)
def test_other_sources_are_refused(source, said):
    with pytest.raises(ModelError, match=said):
        load_language(source)


@pytest.fixture(scope="module")
def packaged():
    return load_language("smollm2-135m")


def _ungrouped(rows, heads):
    """Return query or key rows as transformers has them; llama.cpp keeps each head's halves interleaved."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.weights
def test_the_packaged_weights_are_those_of_the_file_as_the_gguf_package_reads_it(packaged):
    import gguf

    from kit.parts import pull

    model, _ = packaged
    (file,) = pull.get("smollm2-135m").glob("*.gguf")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for theirs, ours, heads in (
        ("token_embd", "model.embed_tokens", 0),
        ("output_norm", "model.norm", 0),
        ("blk.7.ffn_down", "model.layers.7.mlp.down_proj", 0),
        ("blk.7.attn_q", "model.layers.7.self_attn.q_proj", 9),
        ("blk.29.attn_k", "model.layers.29.self_attn.k_proj", 3),
    ):
        tensor = found[f"{theirs}.weight"]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        expected = torch.from_numpy(_ungrouped(expected, heads) if heads else expected.copy())
        assert torch.equal(model.get_submodule(ours).weight, expected), theirs
    assert len(found) == len(model.state_dict()) - 1  # the head shares the embeddings


@pytest.mark.weights
def test_the_packaged_model_knows_the_capital_of_france_and_its_tokenizer_splits_digits(packaged):
    model, tokenizer = packaged
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "The capital of France is Paris."
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.model_max_length == 8192
    assert Path(model.name_or_path) == language_folder("smollm2-135m")

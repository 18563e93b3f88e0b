"""Real vision-language models: each architecture loads from a folder, and from the Hub's cache, or says why not."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY, load_tiny

from kit.errors import ModelError
from kit.models.hub_vision_language import load_hub
from kit.models.vision_language import VisionLanguage
from kit.parts.reference import folder_digest, parse


def test_each_architecture_loads_with_its_processor_and_towers(tiny_model, tiny_folders):
    name = tiny_model.model.config.model_type
    assert isinstance(tiny_model, VisionLanguage)
    assert not tiny_model.model.training
    assert tiny_model.name == f"local-dir:{tiny_folders(name)}"
    (base,) = tiny_model.bases
    assert base.digest == folder_digest(tiny_folders(name))
    stored = load_file(tiny_folders(name) / "model.safetensors").values()  # names on disk are not those in memory
    loaded = {tensor.numpy().tobytes() for tensor in tiny_model.model.state_dict().values()}
    assert all(tensor.numpy().tobytes() in loaded for tensor in stored)
    parts = [tiny_model.language, tiny_model.vision, tiny_model.projector]
    assert all(any(True for _ in part.parameters()) for part in parts)
    assert len({id(part) for part in parts}) == 3


@pytest.mark.parametrize(("asked", "found"), [("bfloat16", torch.bfloat16), (torch.float16, torch.float16)])
def test_weights_come_in_the_asked_type(tiny_folders, asked, found):
    model = load_tiny(tiny_folders("smolvlm"), dtype=asked).model
    assert {parameter.dtype for parameter in model.parameters()} == {found}


def test_the_checkpoints_own_type_is_kept_but_for_float16_without_a_gpu(tiny_folders, tmp_path):
    for dtype, expected in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        folder = tmp_path / str(dtype)
        shutil.copytree(tiny_folders("llava"), folder)
        load_tiny(folder, dtype=dtype).model.save_pretrained(folder)
        if not torch.cuda.is_available():
            assert load_tiny(folder).model.dtype == expected


FROM_HUB = """
import sys
from kit.models.hub_vision_language import load_hub
from kit.parts.reference import parse
for source in sys.argv[1:]:
    found = load_hub(parse(source, kind="model"))
    print(found.digest(), found.bases[0].digest, found.bases[0].origin, found.name)
"""


def test_the_hubs_commit_is_what_is_loaded(tiny_folders, tmp_path):
    # The Hub's own cache layout, without the Hub: two commits, of which main is the second.
    store = tmp_path / "hub" / "models--org--tiny"
    (store / "refs").mkdir(parents=True)
    commits = {"a" * 40: "llava", "b" * 40: "smolvlm"}
    for commit, name in commits.items():
        shutil.copytree(tiny_folders(name), store / "snapshots" / commit)
    (store / "refs" / "main").write_text("b" * 40)
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    sources = {"hf:org/tiny": "b" * 40, f"hf:org/tiny@{'a' * 40}": "a" * 40}
    command = [sys.executable, "-c", FROM_HUB, *sources]
    lines = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout
    for line, (source, commit) in zip(lines.splitlines(), sources.items(), strict=True):
        digest = load_tiny(tiny_folders(commits[commit])).digest()
        assert line.split() == [digest, commit, f"https://huggingface.co/org/tiny/tree/{commit}", source]


def _without(key):
    def change(folder):
        state = load_file(folder / "model.safetensors")
        state = {name: tensor for name, tensor in state.items() if key not in name}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _narrow(folder):
    state = load_file(folder / "model.safetensors")
    key = next(name for name in state if "down_proj" in name)
    state[key] = state[key][:1].contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        (folder / "own.py").write_text("raise SystemExit('the code ran')")

    return change


def _text_only(folder):
    config = json.loads((folder / "config.json").read_text())["text_config"]
    (folder / "config.json").write_text(json.dumps(config))


def _bare_tokenizer(folder):
    (folder / "processor_config.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["processor_class"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "kosmos-2"}')  # a type for which AutoProcessor knows none


OWN = {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForImageTextToText": "own.M"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("layers.1."), r"(?s)checkpoint lacks .*layers.1.*checkpoint lacks .*layers.1.*Fix: check the files"),
        (_narrow, r"down_proj.weight has shape \(1, 96\) in its checkpoint and \(64, 96\) by its configuration"),
        (_pickled, r"(?s)weights cannot be loaded.*Fix: give its weights as safetensors; kit opens no pickles"),
        (_text_only, r"is a 'llama', which is no vision-language model"),
        (_config(**OWN), r"(?s)custom code.*Fix: read its code on the Hub, then pass trust_remote_code=True"),
        (_bare_tokenizer, r"has no processor for pictures and text: it lacks image_processor and tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), r"its configuration cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), r"its configuration cannot be loaded"),
        (lambda folder: (folder / "processor_config.json").unlink(), r"its processor cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"its processor cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 99), r"its weights cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_such_model_says_what_is_missing(tiny_folders, tmp_path, change, said):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folders("llava"), folder)
    change(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load_tiny(folder)
    assert all(fault.where == f"local-dir:{folder}" for fault in caught.value.faults)


def test_no_such_repository_or_type(tiny_folders):
    with pytest.raises(ModelError, match=r"(?s)dtype 'int3' is unknown.*Allowed: float32, bfloat16, float16"):
        load_tiny(tiny_folders("llava"), dtype="int3")
    with pytest.raises(ModelError, match=r"hf:no/such: the Hub"):
        load_hub(parse("hf:no/such", kind="model"))


def test_every_architecture_of_the_issue_is_here():
    assert {"smolvlm", "idefics3", "qwen2_5_vl", "qwen3_vl", "llava", "paligemma", "gemma3"} <= TINY.keys()

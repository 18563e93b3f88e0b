"""Preference losses against TRL's own trainers, on the same rows and the same tiny model."""

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from stitched_models import CHATML, tiny_stitch, write_language

from kit.adapters.language import adapt_language
from kit.data.rows import Preference
from kit.humaneval.preferences import to_dataset, write_preferences
from kit.models.activations import ActivationStore
from kit.models.contrasted import contrasted
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.preference_packs import PreferencePacks, likelihoods
from kit.training.fit import fit
from kit.training.preference import Preferring, drift, kto

trl = pytest.importorskip("trl", reason="trl is missing: pip install -e '.[test]'")

ROWS = [
    Preference("a", None, "What colour is the shape?", "red", "a big blue triangle"),
    Preference("b", None, "Is there a triangle?", "no, there is none", "yes", 0.5),
    Preference("c", None, "Say yes", "yes", "I would rather not say that"),
    Preference("d", None, "Which?", "teal", "grey", 0.25),
]
# Without the line break after an answer's end, which TRL counts as a token of the answer and kit does not.
TEMPLATE = CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>'")
ALL = np.arange(len(ROWS))


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = write_language(tmp_path_factory.mktemp("trl") / "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert TEMPLATE != CHATML
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def both(tiny_vision, language, tmp_path):
    """A cut model that has moved from its reference, and the same two language models for TRL."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_stitch(tiny_vision, language, entry_layer=0, template="chat")
    adapt_language(model, rank=3)
    cut = LanguageCut(model, ActivationStore(tmp_path / "store"))
    tail = LanguageTail(cut).eval()
    column = PreferencePacks.of(cut, ROWS).with_reference(tail)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return SimpleNamespace(
        cut=cut, tail=tail, column=column, policy=copy.deepcopy(model.language), folder=tmp_path,
        reference=AutoModelForCausalLM.from_pretrained(language).eval(),
        tokenizer=AutoTokenizer.from_pretrained(language),
    )  # fmt: skip


def trainer_of(both, kind, dataset, **settings):
    config = {"output_dir": str(both.folder / "trl"), "report_to": "none", "max_length": None, "bf16": False}
    config |= {"use_cpu": True, "gradient_checkpointing": False, "per_device_train_batch_size": len(dataset)}
    args = getattr(trl, f"{kind}Config")(**(config | settings))
    return getattr(trl, f"{kind}Trainer")(
        both.policy, both.reference, args=args, train_dataset=dataset, processing_class=both.tokenizer
    )


def loss_of(trainer, rows):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model.eval(), batch))


@pytest.mark.parametrize(("kind", "theirs", "beta"), [("dpo", "sigmoid", 0.5), ("ipo", "ipo", 0.3)])
def test_losses_are_trls(both, kind, theirs, beta):
    trainer = trainer_of(both, "DPO", to_dataset(ROWS), loss_type=[theirs], beta=beta)
    wanted = loss_of(trainer, ALL)
    assert Preferring(kind, beta=beta)(both.tail, both.column.draw(ALL)).item() == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(Preferring(kind, beta=2 * beta)(both.tail, both.column.draw(ALL)).item(), abs=1e-2)


def test_a_smoothed_loss_is_trls(both):
    """TRL smooths no plain DPO; its AOT does, which for one row alone is the same loss."""
    trainer = trainer_of(both, "DPO", to_dataset(ROWS), loss_type=["aot"], beta=0.5, label_smoothing=0.2)
    found = [Preferring(beta=0.5, smoothing=0.2)(both.tail, both.column.draw(ALL[row : row + 1])).item() for row in ALL]
    assert found == pytest.approx([loss_of(trainer, [row]) for row in ALL], abs=1e-5)


def test_kto_is_trls(both):
    from datasets import Dataset

    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in to_dataset(ROWS)
        for side in ("chosen", "rejected")
    ]
    trainer = trainer_of(both, "KTO", Dataset.from_list(rows), loss_type="kto", beta=0.5)
    wanted = loss_of(trainer, range(8))
    # TRL pairs each question with the answer that stands before its own in the batch.
    talks = contrasted(ROWS)
    asked = [talk.messages[0] for talk in talks]
    said = [talks[number - 1].messages[1] for number in range(8)]
    texts = [
        both.cut.texts([type(talks[0])(str(number), None, (asked[number], said[number]))])[0] for number in range(8)
    ]
    pairs = both.cut.entries([None] * 4, [texts[place : place + 2] for place in range(0, 8, 2)])
    shifted = PreferencePacks(pairs, torch.ones(4))
    policy = likelihoods(both.tail, shifted).answers.flatten()
    for name, parameter in both.cut.model.language.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    strayed = drift(policy, likelihoods(both.tail, shifted).answers.flatten())
    assert strayed > 0.05, "or the estimate would not be tested"
    both.cut.model.language.load_state_dict(both.policy.state_dict())
    now = likelihoods(both.tail, both.column).answers
    assert float(kto(now, both.column.reference, strayed, beta=0.5).mean()) == pytest.approx(wanted, abs=1e-5)


def test_training_follows_trls_losses(both):
    settings = {"learning_rate": 0.01, "weight_decay": 0.0, "max_steps": 6, "lr_scheduler_type": "cosine"}
    settings |= {"warmup_steps": 1, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    trainer = trainer_of(both, "DPO", to_dataset(ROWS), beta=0.5, **settings)
    trainer.train()
    wanted = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    done = fit(both.tail, Preferring(beta=0.5), [both.column], steps=6, batch_size=4, lr=0.01, weight_decay=0.0)
    assert len(wanted) == 6
    assert list(done.losses) == pytest.approx(wanted, abs=1e-3)
    assert wanted[-1] < wanted[0] - 0.1


ALONE = """
import sys
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer

rows, folder, out, pictured = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "pictures"
data = Dataset.from_parquet(rows) if rows.endswith("parquet") else load_dataset("json", data_files=rows, split="train")
model = (AutoModelForImageTextToText if pictured else AutoModelForCausalLM).from_pretrained(folder)
before = {name: one.detach().clone() for name, one in model.named_parameters()}
args = DPOConfig(output_dir=out, max_steps=1, per_device_train_batch_size=2, learning_rate=0.01, report_to="none",
                 save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None,
                 logging_steps=1, disable_tqdm=True)
trainer = DPOTrainer(model, args=args, train_dataset=data, processing_class=AutoProcessor.from_pretrained(folder))
trainer.train()
loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
moved = {name.split(".")[1] for name, one in model.named_parameters() if not torch.equal(one, before[name])}
print(trainer.state.global_step, round(loss, 3), "kit" in sys.modules, *sorted(moved))
"""


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_trl_takes_a_step_on_exported_rows_without_kit(language, tiny_folders, tmp_path, ending):
    """Texts from JSON lines; pictures from Parquet, to a model whose vision tower must move for having seen them."""
    rows, folder = ROWS, language
    if ending == "parquet":
        one, two = noise_pictures(2, size=32)
        rows = [dataclasses.replace(row, picture=one) for row in ROWS[:3]]
        rows, folder = [*rows, dataclasses.replace(ROWS[3], picture=two)], tiny_folders("smolvlm")
    path = tmp_path / f"rows.{ending}"
    assert write_preferences(rows, path) == 4
    words = [path, folder, tmp_path / "out", "pictures" if ending == "parquet" else "texts"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, words)], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps, loss, kit, *moved = done.stdout.splitlines()[-1].split()
    assert (steps, loss, kit) == ("1", "0.693", "False")
    assert "vision_model" in moved if ending == "parquet" else moved


def test_trl_trains_on_exported_preferences_by_the_command_that_is_shown(root, tiny_folders, tmp_path):
    """The votes notebook's command as it is printed, and the README's where it shows one; kit cannot be imported."""
    notebook = json.loads((root / "notebooks" / "08_votes_to_dpo.ipynb").read_text(encoding="utf-8"))
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    shown, *others = [
        block
        for text in (*texts, (root / "README.md").read_text(encoding="utf-8"))
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
        if "DPOTrainer(" in block
    ]
    begin, end = shown.split("preferences.parquet HuggingFaceTB/")
    assert all(begin in other for other in others), "the README shows another command"
    write_preferences(
        [dataclasses.replace(row, picture=noise_pictures(1)[0]) for row in ROWS], tmp_path / "rows.parquet"
    )
    (tmp_path / "no" / "kit").mkdir(parents=True)
    (tmp_path / "no" / "kit" / "__init__.py").write_text("raise ImportError('not without kit')")
    env = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tmp_path / "no"), "HF_HOME": str(tmp_path / "hf")}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = f"{begin}rows.parquet {tiny_folders('smolvlm')}"
    assert len(end.split()) == 1, "what stands behind is the model's name"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=os.environ | env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "TrainOutput(global_step=1, training_loss=0.693" in done.stdout

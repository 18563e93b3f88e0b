"""Training real architectures on answers: the loss is theirs, parts of a batch are the batch, memory is bounded."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import load_tiny
from torch import nn

from kit.data.picture import Picture
from kit.data.rows import Conversation, Message, Question
from kit.errors import DataError
from kit.models.turns import IGNORED
from kit.training.fit import fit
from kit.training.recompute import recompute_activations
from kit.training.supervised import AnswerLoss, Encoded

PICTURES = noise_pictures(3, size=32)
ROWS = [
    Question("a", PICTURES[0], "What colour is the shape?", "red"),
    Question("b", PICTURES[1], "Is there a triangle?", "no, there is none"),
    Question("c", PICTURES[2], "What does it show, in a few words?", "a smiling face with hearts"),
    Conversation("d", None, (Message("user", "Say yes"), Message("assistant", "yes"))),
    Question("e", PICTURES[0], "Which?", "teal"),
    Question("f", PICTURES[1], "Does it show a circle or a rectangle, or neither of them?", "rectangle"),
]
ASKED = {"steps": 3, "batch_size": 6, "lr": 0.02, "warmup": 0.0, "clip_norm": 1e9}


def adapted(model, **options):
    """A copy with LoRA in both towers that changes the model from the start, so that every gradient counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "qkv"], **options)
        wrapped = get_peft_model(copy.deepcopy(model.model), config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
        return wrapped


def trained(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def far(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_parts_of_a_batch_and_recomputed_activations_give_the_whole_batchs_gradients(tiny_model):
    column = Encoded.of(tiny_model, ROWS, picture_required=False)
    found = []
    for accumulate, again in ((1, False), (4, False), (3, True)):
        model = adapted(tiny_model)
        recompute_activations(model, on=again)
        done = fit(model, AnswerLoss(), [column], accumulate=accumulate, **{**ASKED, "steps": 1})
        found.append((done.losses[0], [p.grad for p in model.parameters() if p.grad is not None]))
    (loss, whole), *others = found
    largest = max(float(gradient.abs().max()) for gradient in whole)
    assert largest > 1e-3
    for other, gradients in others:
        assert other == pytest.approx(loss, rel=1e-6)
        assert max(float((a - b).abs().max()) for a, b in zip(whole, gradients, strict=True)) < 1e-5 * largest


def test_lora_learns_and_is_the_same_after_saving(tiny_model, tmp_path):
    column = Encoded.of(tiny_model, ROWS, picture_required=False)
    model = adapted(tiny_model)
    recompute_activations(model)
    done = fit(model, AnswerLoss(), [column], accumulate=3, **{**ASKED, "steps": 4})
    assert done.losses[-1] < done.losses[0] - 0.05
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(tiny_model.model), tmp_path).eval()
    batch = column.draw(np.arange(6), np.random.default_rng(0))
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
        assert not torch.equal(again(**batch).logits, tiny_model.model(**batch).logits)


def test_the_loss_and_its_gradients_are_the_models_own(tiny_model):
    batch = Encoded.of(tiny_model, ROWS, picture_required=False).draw(np.arange(6), np.random.default_rng(0))
    ours, theirs = adapted(tiny_model), adapted(tiny_model)
    loss, expected = AnswerLoss()(ours, batch), theirs(**batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    grads = [(mine.grad, other.grad) for mine, other in pairs if other.grad is not None]
    assert grads
    for mine, other in grads:
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_head_sees_answer_positions_alone(tiny_model):
    batch = Encoded.of(tiny_model, ROWS, picture_required=False).draw(np.arange(6), np.random.default_rng(0))
    seen = []
    head = tiny_model.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, out: seen.append(out.shape[:-1].numel()))
    AnswerLoss()(tiny_model.model, batch)
    answers = int((batch["labels"] != IGNORED).sum())
    assert seen == [answers]
    assert AnswerLoss().count(batch) == answers
    tiny_model.model(**{name: value for name, value in batch.items() if name != "labels"})
    assert seen[1] == batch["labels"].numel(), "afterwards the head is as it was"
    handle.remove()


def test_a_model_without_a_head_that_is_known_gives_the_same_loss(tiny_folders):
    model = load_tiny(tiny_folders("llava"))

    class Closed(nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside = inside

        def forward(self, input_ids, attention_mask, pixel_values):
            return self.inside(input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values)

    batch = Encoded.of(model, ROWS[:3]).draw(np.arange(3), np.random.default_rng(0))
    closed = AnswerLoss()(Closed(model.model), batch)
    assert closed.item() == pytest.approx(AnswerLoss()(model.model, batch).item(), rel=1e-6)


def test_rows_unfit_for_the_model_are_refused_before_the_first_step(tiny_folders):
    model = load_tiny(tiny_folders("smolvlm"))
    with pytest.raises(DataError, match=r"1 of 6: no picture \(d\)"):
        Encoded.of(model, ROWS)
    with pytest.raises(DataError, match=r"5 of 6: image tokens past the context of 12 tokens \(a, b, c, e, f\)"):
        Encoded.of(model, ROWS, picture_required=False, max_length=12)


def test_a_picture_that_changed_after_it_was_counted_is_an_error(tiny_folders):
    files = [noise_pictures(1, size=size)[0].read() for size in (32, 80)]
    changing = Picture("changing", reader=lambda: files[0])
    column = Encoded.of(load_tiny(tiny_folders("qwen3_vl")), [Question("x", changing, "What?", "red")])
    files[0] = files[1]
    with pytest.raises(DataError, match=r"x: has \d+ image tokens, and \d+ were counted before"):
        column.draw(np.array([0]), np.random.default_rng(0))


def test_the_digest_is_that_of_rows_and_encoding(tiny_folders):
    model = load_tiny(tiny_folders("smolvlm"))

    def digest(rows=ROWS, **options):
        return Encoded.of(model, rows, picture_required=False, **options).digest()

    assert digest() == digest(list(ROWS))
    others = [ROWS[:-1], ROWS[::-1], [dataclasses.replace(ROWS[0], answer="blue"), *ROWS[1:]]]
    assert len({digest(), digest(max_length=200), *map(digest, others)}) == 5


def test_a_run_on_rows_resumes_with_the_same_bits(tiny_folders, tmp_path):
    model = load_tiny(tiny_folders("smolvlm"))
    asked = {**ASKED, "batch_size": 3, "accumulate": 2, "steps": 4}

    def run(**more):
        column = Encoded.of(model, ROWS, picture_required=False)
        adapter = adapted(model, lora_dropout=0.2)
        return fit(adapter, AnswerLoss(), [column], **asked, **more), trained(adapter)

    whole, weights = run()
    assert run(checkpoint=tmp_path, stop_after=2)[0].losses == whole.losses[:2]
    resumed, same = run(checkpoint=tmp_path)
    assert resumed.resumed_at == 2
    assert resumed.losses == whole.losses
    assert far(weights, same) == 0

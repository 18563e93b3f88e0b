"""What a vision-language model is given and what it says: rows as padded inputs, and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kit.data.picture import Picture
from kit.data.rows import Conversation, Message
from kit.errors import DataError
from kit.models import products
from kit.models.dual_encoder import tensors_digest
from kit.models.turns import IGNORED, Form, Row, Turns, as_conversation
from kit.models.vision_language import VisionLanguage

_ALONG_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Chat:
    """How a model is spoken to.

    Args:
        form: The form of its conversations.
        image_token_id: What stands for a piece of a picture in ``input_ids``.
        context: The most tokens of a conversation, its picture's included.
        dtype: Of pixels.
    """

    form: Form
    image_token_id: int
    context: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: VisionLanguage, *, max_length: int | None = None) -> Chat:
        """Return how ``model`` is spoken to, in at most ``max_length`` tokens or what its positions allow."""
        config, tokenizer = model.model.config, model.processor.tokenizer
        ends = getattr(model.model.generation_config, "eos_token_id", None)
        ends = [*ends] if isinstance(ends, list | tuple) else [ends]
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        context = getattr(text, "max_position_embeddings", None) or tokenizer.model_max_length
        return cls(
            form=Form(model.processor, frozenset({*ends, tokenizer.eos_token_id} - {None})),
            image_token_id=getattr(config, "image_token_id", None) or model.processor.image_token_id,
            context=min(context, max_length or context),
            dtype=model.model.dtype,
        )

    def encode(self, row: Row, *, ask: bool = False) -> Inputs:
        """Return one row as the model takes it, a batch of one with ``labels``; see ``Form.turns`` for the arguments.

        Raises:
            DataError: see ``Form.turns``; also a picture that the processor put no tokens in for.
        """
        talk = as_conversation(row)
        turns = self.form.turns(talk, ask=ask)
        encoded = self._processed(talk, turns)
        ids = encoded["input_ids"][0].tolist()
        more = len(ids) - len(turns.ids)
        if more < 0 or ids[more + turns.first :] != list(turns.ids[turns.first :]):
            what = "the processor changed the conversation's text, so that the answer cannot be found in it"
            raise DataError.of(talk.id, what, "give the processor another chat_template")
        if (talk.picture is not None) != (self.image_token_id in ids):
            what = "its picture has no tokens" if talk.picture else "it has no picture, and image tokens in its text"
            raise DataError.of(talk.id, what, "look at the chat template and at the row's text")
        labels = torch.tensor([[IGNORED] * more + list(turns.labels)])
        return {**encoded, "labels": labels}

    def _processed(self, talk: Conversation, turns: Turns) -> Inputs:
        # PaliGemma's processor insists on a picture; the model does not.
        if talk.picture is None and self.form.template is None:
            ids = torch.tensor([turns.ids])
            answered = torch.tensor([turns.labels]) != IGNORED
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": answered.long()}
        given: dict[str, Any] = {"text": [turns.text], "return_tensors": "pt"}
        if talk.picture is not None:
            given["images"] = [talk.picture.open()]
        if self.form.template is not None:
            given["add_special_tokens"] = self.form.adds_special(turns.text)
        elif turns.suffix:
            given["suffix"] = [turns.suffix]
        try:
            encoded = self.form.processor(**given)
        except ValueError as error:
            raise DataError.of(talk.id, f"the processor refuses it: {error}") from error
        return {name: value for name, value in encoded.items() if isinstance(value, Tensor) and name != "labels"}

    def batch(self, rows: Sequence[Row]) -> Any:
        """Return rows as one batch with labels, padded on the right: a mapping with ``to(device)``."""
        return self._together([self.encode(row) for row in rows], left=False)

    def prompts(self, pictures: Sequence[Picture | None], questions: Sequence[str]) -> Any:
        """Return questions as one batch to generate from, padded on the left; a picture may be None."""
        rows = [
            Conversation(f"question {number}", picture, (Message("user", question),))
            for number, (picture, question) in enumerate(zip(pictures, questions, strict=True))
        ]
        encoded = [self.encode(row, ask=True) for row in rows]
        for row in encoded:
            del row["labels"]
        return self._together(encoded, left=True)

    def _together(self, rows: Sequence[Inputs], *, left: bool) -> Any:
        from transformers import BatchFeature

        tokenizer = self.form.processor.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        filling = {"input_ids": pad, "labels": IGNORED}
        width = max(row["input_ids"].shape[1] for row in rows)
        joined: Inputs = {}
        for name in {name: None for row in rows for name in row}:
            tensors = [row[name] for row in rows if name in row]
            if name in _ALONG_TEXT:
                joined[name] = torch.cat([_widened(one, width, filling.get(name, 0), left=left) for one in tensors])
            else:
                joined[name] = _stacked(tensors).to(self.dtype if tensors[0].is_floating_point() else None)
        return BatchFeature(joined)

    def digest(self) -> str:
        """Return the identity of what happens to a row before the model sees it, 64 hex digits."""
        tokenizer = self.form.processor.tokenizer
        core = getattr(tokenizer, "backend_tokenizer", None)
        shown = [
            type(self.form.processor).__name__,
            self.form.processor.image_processor.to_json_string(),
            core.to_str() if core is not None else repr(sorted(tokenizer.get_vocab().items())),
            str(self.form.template),
            f"{self.image_token_id} {sorted(self.form.ends)} {self.context} {self.dtype}",
        ]
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()


def _widened(tensor: Tensor, width: int, value: int, *, left: bool) -> Tensor:
    missing = width - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (missing, 0) if left else (0, missing), value=value)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return what belongs to pictures one after the other; where they differ in size, zeros fill them up.

    SmolVLM cuts a picture into as many tiles as its size asks for, and leaves out tiles that are all zero.
    """
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    filled = []
    for tensor in tensors:
        missing = [size - own for size, own in zip(shape, tensor.shape[1:], strict=True)]
        ends = [amount for size in reversed(missing) for amount in (0, size)]
        filled.append(torch.nn.functional.pad(tensor, ends) if any(ends) else tensor)
    return torch.cat(filled)


def answer(
    model: VisionLanguage,
    pictures: Sequence[Picture | None],
    questions: Sequence[str],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 8,
) -> list[str]:
    """Return the model's own answers, decoded greedily.

    Args:
        model: Any vision-language model.
        pictures: One for each question, or None.
        questions: What is asked.
        max_new_tokens: Where an answer that does not end by itself is cut.
        batch_size: Questions at a time.
    """
    chat = Chat.of(model)

    def identity() -> str:
        shown = ["" if one is None else one.digest() for one in pictures]
        weights = tensors_digest(dict(model.model.named_parameters()))
        said = f"{chat.digest()}|{max_new_tokens}|{batch_size}|{list(zip(shown, questions, strict=True))}|{weights}"
        return hashlib.sha256(said.encode()).hexdigest()

    def written() -> list[str]:
        parts = [slice(start, start + batch_size) for start in range(0, len(questions), batch_size)]
        each = (_answers(model, chat, pictures[part], questions[part], max_new_tokens) for part in parts)
        return [said for some in each for said in some]

    return products.kept("chat", identity, written)


def _answers(
    model: VisionLanguage, chat: Chat, pictures: Sequence[Picture | None], questions: Sequence[str], most: int
) -> list[str]:
    inputs: Mapping[str, Tensor] = chat.prompts(pictures, questions).to(model.device)
    with torch.no_grad():
        ids = model.model.generate(**inputs, max_new_tokens=most, do_sample=False)
    fresh = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in model.processor.tokenizer.batch_decode(fresh, skip_special_tokens=True)]

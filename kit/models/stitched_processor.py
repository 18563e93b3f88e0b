"""Texts and pictures as a stitched model takes them, in Hugging Face manners."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kit.errors import DataError, Fault, ModelError, did_you_mean, listed, raise_faults
from kit.models.pixels import Pixels

CONFIG = "processor_config.json"
TEMPLATES = ("plain", "chat")
# Short on purpose: on a CPU every token counts, and ChatML's marks are 20 of some 30.
PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'] | trim }}"
    "{{ eos_token }}{% else %}{% if loop.first or messages[loop.index0 - 1]['role'] == 'assistant' %}"
    "{{ bos_token or '' }}{% endif %}{{ message['content'] | trim }}{% if message['role'] == 'system' %}{{ '\n' }}"
    "{% endif %}{% endif %}{% endfor %}"
)
# Special tokens that models carry and that no text of theirs holds; the first that a tokenizer knows stands for
# pictures, so that no embedding is added.
SPARE = (
    "<image>", "<|image_pad|>", "<|image|>", "<image_soft_token>", "<file_sep>", "<|file_sep|>",
    "<|reserved_special_token_0|>", "<unused0>", "<|extra_0|>", "<|reserved_0|>", "<reserved_0>",
)  # fmt: skip
_ADDED = "<image>"


class StitchedProcessor:
    """A processor for models of one picture a text.

    Args:
        tokenizer: The language model's; a spare special token of it stands for pieces of pictures. One that has none
            is given one more token, and the model then needs a row of embeddings for it (``image_token_id``).
        image_processor: From pictures to pixels.
        image_tokens: Tokens that a picture takes in ``input_ids``, at least 1.
        template: "plain", or "chat" for the tokenizer's own chat template.
        image_token: The token that stands for them; found by default.

    Raises:
        ModelError: an unknown template, a tokenizer without a chat template for "chat", no such image token, or
            another number of tokens; all at once.
    """

    model_input_names = ("input_ids", "attention_mask", "pixel_values")

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Pixels,
        *,
        image_tokens: int,
        template: str = "plain",
        image_token: str | None = None,
    ) -> None:
        raise_faults(_faults(tokenizer, image_tokens, template, image_token), ModelError)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_tokens = image_tokens
        self.template = template
        self.chat_template: str = PLAIN if template == "plain" else tokenizer.chat_template
        self.image_token = image_token or spare_token(tokenizer)
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(self.image_token))

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        *,
        return_tensors: str | None = None,
        padding: bool = True,
        padding_side: str = "left",
        add_special_tokens: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return ``input_ids`` and ``attention_mask``, and ``pixel_values`` where there are pictures.

        Args:
            text: One text or several. The image token in a text is where its picture goes.
            images: A picture for each text that has an image token, in order; or one list for each text.
            return_tensors: "pt" for tensors.
            padding: To the longest text.
            padding_side: "left", as generating needs it, or "right".
            add_special_tokens: Let the tokenizer add its own; by default where a text does not begin with them.
            options: What else the tokenizer takes.

        Raises:
            DataError: more or fewer pictures than places for them, or more than one in a text.
        """
        from transformers import BatchFeature

        texts = [text] if isinstance(text, str) else list(text)
        pictures = self._matched(texts, images)
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = bos is None or not all(one.startswith(bos) for one in texts)
        encoded = self.tokenizer(
            [one.replace(self.image_token, self.image_token * self.image_tokens) for one in texts],
            return_tensors=return_tensors, padding=padding, padding_side=padding_side,
            add_special_tokens=add_special_tokens, **options,
        )  # fmt: skip
        kept = {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}
        return BatchFeature({**kept, **(self.image_processor(pictures) if pictures else {})})

    def _matched(self, texts: Sequence[str], images: Any) -> list[Image.Image]:
        """Return the pictures as one list, having made sure that each has its place."""
        marks = [one.count(self.image_token) for one in texts]
        if isinstance(images, Image.Image):
            images = [images]
        given = list(images or [])
        nested = any(isinstance(one, list | tuple) for one in given)
        pictures = [one for group in given for one in group] if nested else given
        counts = [len(group) for group in given] if nested else None
        fix = f"write {self.image_token!r} where each picture goes, and give one for each"
        faults = [
            Fault(f"text {number}", f"has {count} places for pictures; this model takes one a text", "split the text")
            for number, count in enumerate(marks)
            if count > 1
        ]
        if len(pictures) != sum(marks):
            faults.append(Fault("images", f"{len(pictures)} pictures for {sum(marks)} places in the texts", fix))
        elif counts is not None and counts != marks:
            faults.append(Fault("images", f"{counts} pictures for texts with {marks} places", fix))
        raise_faults(faults, DataError)
        return pictures

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        images: Any = None,
        return_dict: bool = True,
        return_tensors: str | None = None,
        **options: Any,
    ) -> Any:
        """Return a conversation, or several, as text or as the model's inputs.

        Args:
            conversation: Messages with ``role`` and ``content``; a content is a string, or a list of
                ``{"type": "image"}`` (with the picture under "image", or in ``images``) and
                ``{"type": "text", "text": …}``.
            chat_template: Another template.
            add_generation_prompt: End with what calls for the assistant's answer.
            tokenize: Return the model's inputs instead of text.
            images: Pictures, as calling the processor takes them.
            return_dict: All inputs, or the token ids alone.
            return_tensors: "pt" for tensors.
            options: What else calling the processor takes.

        Raises:
            DataError: a message without role or content, a text that holds the image token itself (a picture has
                an entry of its own), or another number of pictures than of places.
        """
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        talks = list(conversation) if several else [conversation]
        found: list[Any] = []
        rendered = [
            self.tokenizer.apply_chat_template(
                [self._flat(message, found) for message in talk],
                chat_template=chat_template or self.chat_template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
            for talk in talks
        ]
        if not tokenize:
            return rendered if several else rendered[0]
        encoded = self(rendered, found if images is None else images, return_tensors=return_tensors, **options)
        return encoded if return_dict else encoded["input_ids"]

    def _flat(self, message: Mapping[str, Any], found: list[Any]) -> dict[str, str]:
        """Return a message with its content as one string; pictures in it are added to ``found``."""
        try:
            role, content = message["role"], message["content"]
            entries = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
            kinds = [entry["type"] for entry in entries]
            texts = [entry["text"] for entry in entries if entry["type"] == "text"]
        except (KeyError, TypeError) as error:
            what = f"has not the form of one: {error!r}"
            raise DataError.of("message", what, "give role and content") from error
        if unknown := sorted(set(kinds) - {"text", "image"}):
            raise DataError.of("message", f"holds {listed(unknown)}", "give text and images")
        if any(self.image_token in text for text in texts):
            what = f"its text holds {self.image_token!r}, which stands for a picture"
            raise DataError.of("message", what, 'take it out; a picture is an entry {"type": "image"}')
        found += [entry["image"] for entry in entries if entry["type"] == "image" and "image" in entry]
        shown = [self.image_token if entry["type"] == "image" else str(entry["text"]) for entry in entries]
        return {"role": role, "content": "".join(shown)}

    def batch_decode(self, *args: Any, **options: Any) -> list[str]:
        """Return texts for token ids, as the tokenizer does."""
        texts: list[str] = self.tokenizer.batch_decode(*args, **options)
        return texts

    def decode(self, *args: Any, **options: Any) -> str:
        """Return the text for token ids, as the tokenizer does."""
        text: str = self.tokenizer.decode(*args, **options)
        return text

    def save_pretrained(self, folder: Path | str, **_: Any) -> None:
        """Write ``processor_config.json`` and the tokenizer's files."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        own = self.chat_template not in {PLAIN, self.tokenizer.chat_template}
        values = {
            "processor_class": type(self).__name__,
            "image_tokens": self.image_tokens,
            "image_token": self.image_token,
            "template": self.template,
            "chat_template": self.chat_template if own else None,
            "pixels": self.image_processor.settings,
        }
        (place / CONFIG).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        self.tokenizer.save_pretrained(place)

    @classmethod
    def from_pretrained(cls, folder: Path | str, **_: Any) -> StitchedProcessor:
        """Return the processor that was saved in a folder.

        Raises:
            ModelError: a folder without one, or a damaged one.
        """
        from transformers import AutoTokenizer, PretrainedConfig

        place = Path(folder)
        try:
            values = json.loads((place / CONFIG).read_text(encoding="utf-8"))
            # The tokenizer's own files say what it is; a stitched model's config.json beside them would be warned of.
            tokenizer = AutoTokenizer.from_pretrained(place, config=PretrainedConfig(), local_files_only=True)
            names = ("image_tokens", "template", "image_token")
            made = cls(tokenizer, Pixels(values["pixels"]), **{name: values[name] for name in names})
            made.chat_template = values["chat_template"] or made.chat_template
        except Exception as error:  # tokenizers have errors of their own
            what = f"holds no {cls.__name__} that can be read: {' '.join(str(error).split())[:200]}"
            raise ModelError.of(str(place), what, "name a folder that one was saved to, or save it again") from error
        return made


def spare_token(tokenizer: Any) -> str:
    """Return a special token that no text of the tokenizer's model holds; one is added where there is none."""
    from tokenizers import AddedToken

    known = tokenizer.get_added_vocab()
    used = set(tokenizer.all_special_tokens)
    for token in SPARE:
        if token in known and (token not in used or token in SPARE[:4]):
            return token
    tokenizer.add_tokens([AddedToken(_ADDED, special=True)], special_tokens=True)
    return _ADDED


def _faults(tokenizer: Any, image_tokens: int, template: str, image_token: str | None) -> list[Fault]:
    found = []
    if template not in TEMPLATES:
        what = f"{template!r} is unknown.{did_you_mean(template, TEMPLATES)}"
        found.append(Fault("template", what, allowed=f"Allowed: {listed(TEMPLATES)}."))
    elif template == "chat" and not isinstance(tokenizer.chat_template, str):
        found.append(Fault("template", "the language model's tokenizer has no chat template", "use template='plain'"))
    if isinstance(image_tokens, bool) or not isinstance(image_tokens, int) or image_tokens < 1:
        found.append(Fault("image_tokens", f"must be a whole number of at least 1, got {image_tokens!r}"))
    if image_token is not None and image_token not in tokenizer.get_vocab():
        found.append(Fault("image_token", f"the tokenizer has no {image_token!r}", "leave it out"))
    return found

"""Where a stitched model is cut: below, text is read once per distinct text; above, adapters and projector are trained.

Questions about one picture share what stands before them (the template's opening and the picture's tokens), so these
are computed once for all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from kit.data.picture import Picture
from kit.data.rows import Conversation, Message
from kit.errors import DataError, Fault, ModelError, raise_faults
from kit.models.activations import Activations, ActivationStore
from kit.models.chat import Chat
from kit.models.halves import lower, trunk
from kit.models.packs import NO_PICTURE, Packs, Text, Texts, grouped
from kit.models.prompts import PromptedAttention
from kit.models.text_states import TextStates, below_identity
from kit.models.turns import IGNORED, Row, as_conversation
from kit.models.vision_language import VisionLanguage
from kit.models.vision_tower import encode_pictures

_ANY = Picture("any picture")  # for texts that follow one; never opened
ASKED = 64  # questions about one picture at a time
SHOWN = 5  # ids in a fault
STEP = 8  # texts are padded to a multiple of so many tokens; another length is another key of the store


class LanguageCut:
    """A stitched model with the layers below its lowest trained one computed in advance.

    Make it when the adapters are on the model: they say where it is cut.

    Args:
        model: The model.
        store: Where activations are kept; kit's home by default.

    Raises:
        ModelError: not a stitched model, a cut above the lowest adapter, or something trained that no cut allows.
    """

    def __init__(self, model: VisionLanguage, store: ActivationStore | None = None) -> None:
        if not hasattr(model.model, "project"):
            raise ModelError.of(model.name, "is not stitched, so it cannot be cut", "train it whole")
        self.model, self.store = model, store or ActivationStore()
        self.chat = Chat.of(model)
        self.cut = _placed(model.model)
        self._below = lower(model.language, self.cut)
        self._opening: tuple[int, ...] | None = None
        self._reading: TextStates | None = None
        self._key = below_identity(self.model.language, self.cut)

    def packs(self, rows: Sequence[Row], *, per_picture: int = 16) -> Packs:
        """Return rows as training draws them: one entry per picture, with at most ``per_picture`` of its rows.

        Args:
            rows: Questions with answers, or conversations; a row may have no picture.
            per_picture: A picture with more rows has several entries.

        Raises:
            DataError: no rows, or rows that cannot be trained on: all kinds of fault at once, with the first ids.
        """
        if not rows or per_picture < 1:
            what = "there are no rows" if not rows else f"per_picture must be at least 1, got {per_picture!r}"
            raise DataError.of("packs", what, "check the data source and limit" if not rows else "")
        talks = [as_conversation(row) for row in rows]
        return self._packed([talk.picture for talk in talks], self.texts(talks), per_picture)

    def prompts(
        self, pictures: Sequence[Picture | None], asked: Sequence[tuple[int, ...]], *, keep: bool = True
    ) -> Packs:
        """Return token ids that follow pictures, the next token after each wanted, as ``packs`` returns rows.

        Args:
            pictures: One for each text, or None.
            asked: Token ids, at least one a text.
            keep: Keep in the store what is below the cut; not worth its place for a text that grows by its answer.
        """
        texts = [(ids, (*[IGNORED] * (len(ids) - 1), 0)) for ids in asked]
        return self._packed(pictures, texts, ASKED, keep=keep)

    def question(self, text: str, *, seen: bool) -> tuple[int, ...]:
        """Return a question's token ids after the opening, with the words that call for its answer.

        Args:
            text: The question.
            seen: Whether it is asked about a picture.

        Raises:
            DataError: nothing is asked, or more than the model reads.
        """
        talk = Conversation("question", _ANY if seen else None, (Message("user", text),))
        ids = self._split(talk, ask=True)[0]
        if not ids:
            raise DataError.of("question", f"{text!r} asks nothing", "give words")
        return ids

    def answer(self, text: str) -> tuple[int, ...]:
        """Return an answer's token ids, its end included."""
        talk = Conversation("answer", _ANY, (Message("user", "a"), Message("assistant", text)))
        return tuple(label for label in self._split(talk)[1] if label != IGNORED)

    def texts(self, talks: Sequence[Conversation]) -> list[Text]:
        """Return each conversation's part after the opening and the picture; equal ones are read once.

        Raises:
            DataError: conversations that cannot be trained on: all kinds of fault at once, with the first ids.
        """
        known: dict[tuple[tuple[Message, ...], bool], Text | Fault] = {}
        wrong: dict[tuple[str, str], list[str]] = {}
        for talk in talks:
            key = (talk.messages, talk.picture is None)
            if key not in known:
                try:
                    known[key] = self._split(talk)
                except DataError as error:
                    known[key] = error.faults[0]
            found = known[key]
            if isinstance(found, Fault):
                wrong.setdefault((found.what, found.fix), []).append(talk.id)
        faults = [
            Fault(
                "rows", f"{len(ids)} of {len(talks)}: {what} ({', '.join(ids[:SHOWN])}{' …' * (len(ids) > SHOWN)})", fix
            )
            for (what, fix), ids in wrong.items()
        ]
        raise_faults(faults, DataError)
        return [found for talk in talks if not isinstance(found := known[talk.messages, talk.picture is None], Fault)]

    def _split(self, talk: Conversation, *, ask: bool = False) -> Text:
        """Return what follows the opening and the picture: token ids, and for each the next token if it is asked."""
        turns = self.chat.form.turns(talk, ask=ask)
        ids, mark = list(turns.ids), self.chat.form.placeholder_id
        opening = self._start()
        place = len(opening)
        shown = ids[place : place + 1] == [mark]
        if tuple(ids[:place]) != opening or ids.count(mark) != shown or shown != (talk.picture is not None):
            what = "does not begin as the chat template's other conversations do, picture first"
            raise DataError.of(talk.id, what, "leave system messages out, and the picture's mark out of the text")
        ids, labels = ids[place + shown :], list(turns.labels)[place + shown :]
        if place + self.model.processor.image_tokens * shown + len(ids) > self.chat.context:
            what = f"has {len(ids)} tokens beside its picture's; the model reads {self.chat.context} in all"
            raise DataError.of(talk.id, what, "shorten it")
        if ask:
            return tuple(ids), (*labels[1:], IGNORED)
        if not labels or labels[0] != IGNORED or all(label == IGNORED for label in labels):
            raise DataError.of(talk.id, "has no question before its answer, or no answer", "give both")
        stop = max(number for number, label in enumerate(labels) if label != IGNORED)  # nothing follows the last one
        return tuple(ids[:stop]), tuple(labels[1 : stop + 1])

    def _start(self) -> tuple[int, ...]:
        """Return the token ids that stand before the picture."""
        if self._opening is None:
            talk = Conversation("opening", _ANY, (Message("user", "a"),))
            ids = self.chat.form.turns(talk, ask=True).ids  # refuses a template that leaves the picture out
            self._opening = tuple(ids[: ids.index(self.chat.form.placeholder_id)])
        return self._opening

    def _packed(
        self, pictures: Sequence[Picture | None], texts: Sequence[Text], most: int, *, keep: bool = True
    ) -> Packs:
        packs = self.entries(pictures, [(text,) for text in texts], keep=keep)
        groups = grouped([picture for picture, _ in packs.groups], [own[0] for _, own in packs.groups], most)
        return dataclasses.replace(packs, groups=groups)

    def entries(
        self, pictures: Sequence[Picture | None], texts: Sequence[Sequence[Text]], *, keep: bool = True
    ) -> Packs:
        """Return one entry for each picture given (or None), with its own texts in their order."""
        distinct = list(dict.fromkeys(text for own in texts for text in own))
        number = {text: place for place, text in enumerate(distinct)}
        shown = {picture.digest(): picture for picture in pictures if picture is not None}
        place = {digest: place for place, digest in enumerate(shown)}
        groups = tuple(
            (NO_PICTURE if picture is None else place[picture.digest()], tuple(number[text] for text in own))
            for picture, own in zip(pictures, texts, strict=True)
        )
        features = encode_pictures(self.model.vision, list(shown.values()), self.store) if shown else None
        hidden = self._hidden([ids for ids, _ in distinct], keep=keep)
        return Packs(
            Texts.of(self._states().opening, hidden, distinct), features, groups, self.model.processor.image_tokens
        )

    def _states(self) -> TextStates:
        """Return what reads texts; it has read what stands before the picture."""
        if self._reading is None:
            embed = self.model.language.get_input_embeddings()
            self._reading = TextStates(embed, self._below, self._start(), self.model.device)
        return self._reading

    def _hidden(self, texts: Sequence[tuple[int, ...]], *, keep: bool) -> Activations:
        """Return hidden states at the cut of texts after the opening, shape (n, t, width)."""
        start, states = self._start(), self._states()
        length = -(-max(len(ids) for ids in texts) // STEP) * STEP
        if not keep:
            found = np.concatenate(list(states.read(texts, length)))
            places = np.stack([np.zeros(len(texts), dtype=np.int64), np.arange(len(texts))], 1)
            return Activations((found,), places, "", computed=len(texts))
        key = hashlib.sha256(f"{self._key}|{start}|{length}".encode()).hexdigest()
        rows = [[*start, *ids, *[0] * (length - len(ids))] for ids in texts]
        names = [hashlib.sha256(np.array(row, dtype=np.int64).tobytes()).hexdigest() for row in rows]
        return self.store.fetch(key, names, lambda places: states.read([texts[place] for place in places], length))


def _placed(model: Any) -> int:
    """Return where to cut: at the picture's entry or the lowest prompted layer, nothing below it being trained."""
    layers = trunk(model.language_model).layers
    prompted = [
        number
        for number, layer in enumerate(layers)
        if any(isinstance(module, PromptedAttention) for module in layer.modules())
    ]
    cut: int = min(prompted, default=len(layers)) if model.config.prompted else model.config.entry_layer
    adapted = [
        number
        for number, layer in enumerate(layers)
        if any(parameter.requires_grad for parameter in layer.parameters())
        or any(hasattr(module, "lora_A") for module in layer.modules())
    ]
    faults = _outside_faults(model)
    if model.config.prompted and not prompted:
        faults.append(
            Fault("cut", "no layer has adaption prompts, so none sees a picture", "use add_llama_adapter first")
        )
    elif adapted and adapted[0] < cut:
        what = f"layer {cut}, where the picture enters, is above the lowest adapter, in layer {adapted[0]}"
        fix = f"adapt layers from {cut} on, or load the model with a lower entry_layer"
        faults.append(Fault("cut", what, fix))
    raise_faults(faults, ModelError)
    return cut


def _outside_faults(model: Any) -> list[Fault]:
    """Return why something other than projector, layers and last norm would have to be computed in each step."""
    language = model.language_model
    inside = {
        id(one) for part in (model.projector, trunk(language).layers, trunk(language).norm) for one in part.parameters()
    }
    trained = [name for name, one in model.named_parameters() if one.requires_grad and id(one) not in inside]
    faults = []
    if trained:
        what = f"{trained[0]} is trained, and is computed in advance" + f" ({len(trained)} such)" * (len(trained) > 1)
        faults.append(Fault("cut", what, "freeze it, or train the model whole"))
    head = language.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        faults.append(Fault("cut", f"the output layer is more than a matrix ({type(head).__name__})", "train it whole"))
    return faults

"""Answers of a cut model to many questions: each picture's prefix once, each distinct text below the cut once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kit.data.picture import Picture
from kit.errors import DataError
from kit.models import products
from kit.models.dual_encoder import tensors_digest
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.quick_layers import STEP
from kit.progress import track

PICTURES = 8
# Answers of so many tokens are kept below the cut like their questions: short ones are few, and another trial of a
# sweep, or tomorrow's run, gives them too. What a longer one goes through is read again.
KEPT = 4
Ids = tuple[int, ...]
Key = tuple[str, str]  # a picture's digest, empty for none, and the question


class PackedAnswers:
    """Greedy answers, free or from a list: a callable from pictures and questions to answers.

    Args:
        cut: The cut model.
        tail: What is above the cut; shares the model's parameters.
        candidates: The answers to choose from: at each token the best of those that a candidate goes on with.
            None for free answers.
        max_new_tokens: Where a free answer that does not end by itself is cut.

    Raises:
        DataError: fewer than two candidates, one of no words, or two that the model spells alike.
    """

    pictures = PICTURES  # a batch

    def __init__(
        self, cut: LanguageCut, tail: LanguageTail, *, candidates: Sequence[str] | None = None, max_new_tokens: int = 8
    ) -> None:
        self.cut, self.tail, self.max_new_tokens = cut, tail, max_new_tokens
        self.candidates = None if candidates is None else _spelled(cut, sorted(set(candidates)))

    def __call__(self, pictures: Sequence[Picture | None], questions: Sequence[str]) -> list[str]:
        """Return one answer per question; a picture may be None. Equal questions about one picture are asked once."""
        if not questions:
            return []
        asked, distinct, about, prompts = self._distinct(pictures, questions)
        write = self._written if self.candidates is None else self._chosen
        said = products.kept("answers", lambda: self._identity(distinct), lambda: write(about, prompts))
        found = dict(zip(distinct, said, strict=True))
        return [found[one] for one in asked]

    def _identity(self, asked: Sequence[object]) -> str:
        """Return what answers follow from: the weights as they are now, how they are asked, and what is asked."""
        how = (type(self).__qualname__, self.max_new_tokens, sorted(self.candidates or ()), self.cut.chat.digest())
        weights = tensors_digest(dict(self.cut.model.model.named_parameters()))
        return hashlib.sha256(f"{how}|{list(asked)}|{weights}|{self.tail.head.dtype}".encode()).hexdigest()

    def _distinct(
        self, pictures: Sequence[Picture | None], questions: Sequence[str]
    ) -> tuple[list[Key], list[Key], list[Picture | None], list[Ids]]:
        """Return each row's key, and in the order of ``grouped`` the distinct keys, their pictures and prompts."""
        asked = [
            ("" if picture is None else picture.digest(), question)
            for picture, question in zip(pictures, questions, strict=True)
        ]
        shown = dict(zip((digest for digest, _ in asked), pictures, strict=True))
        order = {digest: place for place, digest in enumerate(shown)}
        distinct = sorted(dict.fromkeys(asked), key=lambda one: order[one[0]])  # as ``grouped`` will order them
        about = [shown[digest] for digest, _ in distinct]
        known: dict[tuple[str, bool], Ids] = {}
        for digest, question in distinct:
            if (question, bool(digest)) not in known:
                known[question, bool(digest)] = self.cut.question(question, seen=bool(digest))
        return asked, distinct, about, [known[question, bool(digest)] for digest, question in distinct]

    def _chosen(self, pictures: list[Picture | None], prompts: list[Ids]) -> list[str]:
        assert self.candidates is not None  # noqa: S101  # __call__ asks
        left, depth = [dict(self.candidates) for _ in prompts], 0
        while rows := [row for row, some in enumerate(left) if len(some) > 1]:
            ahead = [(*prompts[row], *next(iter(left[row].values()))[:depth]) for row in rows]
            tokens = torch.tensor(sorted({ids[depth] for row in rows for ids in left[row].values()}))
            about = [pictures[row] for row in rows]
            scores = self._next(about, ahead, partial(_of, tokens), keep=depth <= KEPT)
            column = {int(token): place for place, token in enumerate(tokens)}
            for row, own in zip(rows, scores.tolist(), strict=True):
                possible = {token: own[column[token]] for token in sorted({ids[depth] for ids in left[row].values()})}
                best = max(possible, key=possible.__getitem__)
                left[row] = {name: ids for name, ids in left[row].items() if ids[depth] == best}
            depth += 1
        return [next(iter(some)) for some in left]

    def _written(self, pictures: list[Picture | None], prompts: list[Ids]) -> list[str]:
        ends = self.cut.chat.form.ends
        said: list[list[int]] = [[] for _ in prompts]
        for depth in range(self.max_new_tokens):
            rows = [row for row, ids in enumerate(said) if not ids or ids[-1] not in ends]
            if not rows:
                break
            ahead = [(*prompts[row], *said[row]) for row in rows]
            about = [pictures[row] for row in rows]
            best = self._next(about, ahead, self._pick, keep=depth <= KEPT)
            for row, token in zip(rows, best[:, 0].tolist(), strict=True):
                said[row].append(token)
        decode = self.cut.model.processor.tokenizer.batch_decode
        return [text.strip() for text in decode(said, skip_special_tokens=True)]

    def _pick(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Return how each text goes on, shape (n, 1)."""
        return self._logits(hidden, head).argmax(-1, keepdim=True)

    def _logits(self, hidden: Tensor, head: Tensor) -> Tensor:
        """Return what may come next; never the image token, as in ``StitchedModel.generate``."""
        mark = self.cut.chat.form.placeholder_id
        logits = F.linear(hidden, head)
        logits[:, mark : mark + 1] = -torch.inf  # none where the token was added for pictures and has no logit
        return logits

    @torch.no_grad()
    def _next(
        self,
        pictures: Sequence[Picture | None],
        ids: Sequence[Ids],
        taken: Callable[[Tensor, Tensor], Tensor],
        *,
        keep: bool,
    ) -> Tensor:
        """Return what ``taken`` makes of the last hidden states of each text and the output layer, one row per text."""
        packs = self.cut.prompts(pictures, ids, keep=keep)
        rows: list[Tensor] = []
        with track(total=len(packs), label="answering") as bar:
            for start in range(0, len(packs), self.pictures):
                batch = packs.draw(np.arange(start, min(start + self.pictures, len(packs)))).to(self.cut.model.device)
                hidden = self.tail(batch)
                even = F.pad(hidden, (0, 0, 0, -len(hidden) % STEP))
                rows.append(taken(even, self.tail.head)[: len(hidden)].cpu())
                bar.update(len(batch.pictured))
        return torch.cat(rows)


def _of(tokens: Tensor, hidden: Tensor, head: Tensor) -> Tensor:
    """Return the logits of a few tokens; the other 49,000 rows of the output layer are not read."""
    return F.linear(hidden, head[tokens.to(head.device)]).float()


def _spelled(cut: LanguageCut, candidates: Sequence[str]) -> dict[str, Ids]:
    """Return each candidate as the tokens that the template makes of it as an answer, its end among them.

    With its end, since one candidate may begin as another does ("red", "red and blue").
    """
    if len(candidates) < 2 or not all(candidate.strip() for candidate in candidates):
        raise DataError.of("candidates", f"must be at least two answers, got {list(candidates)}", "name the answers")
    spelled = {candidate: cut.answer(candidate) for candidate in candidates}
    first: dict[Ids, str] = {}
    for candidate, ids in spelled.items():
        if first.setdefault(ids, candidate) != candidate:
            what = f"{first[ids]!r} and {candidate!r} are the same to the model"
            raise DataError.of("candidates", what, "leave one out")
    return spelled

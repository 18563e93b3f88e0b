"""``kit merge --ask``: the parents and their child asked the same, so that each one's task is seen before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kit.errors import BundleError

if TYPE_CHECKING:
    from kit.adapters.bundle import Bundle
    from kit.data.rows import Rows
    from kit.result import Measurement

SPLIT = "test"


def before_and_after(parents: Sequence[Bundle], child: Any, source: str, limit: int) -> dict[str, Measurement]:
    """Return what each parent and the child get right, named ``parent_1_exact_match``, ``child_exact_match_colour``, ….

    Args:
        parents: The bundles that were merged.
        child: What became of them.
        source: Data: questions for vision-language models, pictures with captions for CLIPs; its test split is asked.
        limit: At most so many pictures.

    Raises:
        BundleError: reward models, which answer nothing.
        DataError: data that have no such rows.
    """
    from kit.data.sources import load_rows

    kind = parents[0].manifest.kind
    if kind == "reward":
        raise BundleError.of("--ask", "rewards answer nothing", "leave it out, and compare what Reward.score says")
    clip = kind == "dual-encoder"
    rows = load_rows(source, split=SPLIT, kind="pairs" if clip else "questions")
    rows = rows.limit(limit) if clip else rows.about(limit)
    score = _found if clip else _answered
    found: dict[str, Measurement] = {}
    for number, one in enumerate(parents, 1):
        found |= score(one.load() if clip else one.load(device="cpu"), rows, f"parent_{number}_")
    return {**found, **score(child, rows, "child_")}


def _answered(model: Any, rows: Rows[Any], prefix: str) -> Mapping[str, Measurement]:
    from kit.evaluation.answers import score_answers
    from kit.models.chat import answer
    from kit.models.language_cut import LanguageCut
    from kit.models.language_tail import LanguageTail
    from kit.models.packed_answers import PackedAnswers

    pictures, questions = [row.picture for row in rows], [row.question for row in rows]
    if hasattr(model.model, "project"):
        cut = LanguageCut(model)
        said = PackedAnswers(cut, LanguageTail(cut), candidates=rows[0].answers or None)(pictures, questions)
    else:
        said = answer(model, pictures, questions)
    return score_answers([said], rows, split=SPLIT, prefix=prefix)


def _found(encoder: Any, rows: Rows[Any], prefix: str) -> Mapping[str, Measurement]:
    from kit.adapters.clip_lora import AdaptedEncoder
    from kit.evaluation.scores import retrieval
    from kit.models.encode import PrefixEncoder, Prefixes, embed

    encoder = encoder.merged() if isinstance(encoder, AdaptedEncoder) else encoder
    frozen = PrefixEncoder(encoder)
    sides = Prefixes(frozen.images([row.picture for row in rows]), frozen.texts(rows.texts()))
    images, texts = embed(encoder, sides)
    shown = retrieval([texts @ images.T], split=SPLIT, prefix=prefix)
    return {name: one for name, one in shown.items() if name.endswith("recall_at_1")}

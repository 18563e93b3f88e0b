"""Copies of a model side by side: size, speed, perplexity, task score and agreement; and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kit.data.prose import Passage
from kit.data.rows import Conversation
from kit.errors import DataError
from kit.evaluation.answers import Asked, pictures_of, row_scores, score_answers
from kit.evaluation.forgetting import TextLoss, forgetting, text_loss
from kit.intervals import bootstrap
from kit.models.chat import answer
from kit.models.vision_language import VisionLanguage
from kit.quantization.parity import Parity, logits_of, parity
from kit.quantization.sizes import MB, SMALL, held_bytes
from kit.quantization.speed import Runner, TorchRunner, race, speeds
from kit.result import Measurement

_FOUR_BITS = {"nf4", "int4"}
_CONTEXT = 512  # tokens of a window that perplexity is measured in


@dataclass(frozen=True)
class Line:
    """One copy in the comparison.

    Args:
        name: What it is called.
        to: The type its matrices are held in.
        mb: Megabytes of the language tower's weights in memory.
        share: These over the parent's.
        parity: How far it is from the parent.
        perplexity: On plain text.
        perplexity_ratio: Over the parent's, paired.
        score: The task's score; None where no rows were given.
        lost: Points of the task's score that the parent has more, paired by row; None likewise.
        speed: Tokens a second and ratios, see ``speeds``.
        said: What is known beside that, such as disk size, peak memory and quantisation time.
    """

    name: str
    to: str
    mb: float
    share: float
    parity: Parity
    perplexity: Measurement
    perplexity_ratio: Measurement
    score: Measurement | None = None
    lost: Measurement | None = None
    speed: Mapping[str, Measurement] = field(default_factory=dict)
    said: Mapping[str, Measurement] = field(default_factory=dict)

    def measurements(self) -> dict[str, Measurement]:
        """Return everything for a Result, each name beginning with the copy's."""
        name = "".join(letter if letter.isalnum() else "_" for letter in self.name)
        found = {"mb": Measurement(self.mb, "MB", 1, method="language tower in memory", better="lower")}
        found["size_share"] = Measurement(self.share, "x", 1, method="over the parent's", better="lower")
        found |= {"perplexity": self.perplexity, "perplexity_ratio": self.perplexity_ratio}
        found |= {} if self.score is None or self.lost is None else {"score": self.score, "points_lost": self.lost}
        found |= {**self.parity.measurements(), **self.speed, **self.said}
        return {f"{name}_{what}": one for what, one in found.items()}


@dataclass(frozen=True)
class Contender:
    """A copy that is compared.

    Args:
        name: What it is called; the first one is the parent.
        model: The copy. Its ``model`` may be anything that gives logits and generates.
        to: The type its matrices are held in.
        runner: What runs it for timing; transformers by default.
        said: Measurements that are known already.
    """

    name: str
    model: VisionLanguage
    to: str
    runner: Runner | None = None
    said: Mapping[str, Measurement] = field(default_factory=dict)


def compare(
    contenders: Sequence[Contender],
    *,
    passages: Sequence[Passage],
    probes: Sequence[Conversation],
    rows: Sequence[Asked] = (),
    metric: str = "exact_match",
    answers: Callable[[VisionLanguage], list[str]] | None = None,
    **timing: Any,
) -> list[Line]:
    """Measure copies against their parent, which is the first of them.

    Args:
        contenders: The parent in float32, then its copies.
        passages: Plain text for perplexity: ``kit.data.prose.load_prose``.
        probes: What parity is measured on.
        rows: Questions of the bundle's own task; none for no task score.
        metric: A name in ``kit.evaluation.answers.METRICS``.
        answers: Returns a model's answers to the rows; greedy free answers by default.
        timing: For ``race``: lengths, rounds, new_tokens.

    Raises:
        DataError: fewer than two contenders.
    """
    if len(contenders) < 2:
        raise DataError.of("compare", "there is nothing to compare with", "give the parent and at least one copy")
    parent = contenders[0]
    reference = _remembered(parent.model)
    ask = answers or _answering(rows)
    losses = {one.name: _loss(one.model, passages) for one in contenders}
    said = {one.name: ask(one.model) if rows else [] for one in contenders}
    runners = {one.name: one.runner or TorchRunner(one.model.language) for one in contenders}
    timing.setdefault("vocabulary", min(1000, parent.model.language.config.vocab_size))
    fast = speeds(race(runners, **timing), parent.name)
    lines = []
    for one in contenders:
        text = forgetting(losses[parent.name], losses[one.name])
        score, lost = _task(said[parent.name], said[one.name], rows, metric) if rows else (None, None)
        gate = parity(reference, logits_of(one.model), probes, task=None if lost is None else lost.value)
        mb, timed = _mb(one), fast[one.name]
        timed = _with_floors(mb, timed)
        ratio = text["perplexity_ratio"]
        lines.append(
            Line(
                one.name, one.to, mb, mb / _mb(parent), gate, text["adapted_perplexity"], ratio, score, lost, timed,
                one.said,
            )
        )  # fmt: skip
    return lines


def pareto(lines: Sequence[Line]) -> list[Line]:
    """Return the copies that no other one beats in both size and perplexity, the smallest first."""
    kept: list[Line] = []
    for line in sorted(lines, key=lambda one: (one.mb, one.perplexity.value)):
        if not kept or line.perplexity.value < kept[-1].perplexity.value:
            kept.append(line)
    return kept


def points_lost(
    before: Sequence[str], after: Sequence[str], rows: Sequence[Asked], *, metric: str = "exact_match"
) -> Measurement:
    """Return how many points (hundredths) of a task's score one list of answers has less than another.

    Args:
        before: Answers of the parent.
        after: Answers of its copy to the same questions.
        rows: The questions.
        metric: A name in ``kit.evaluation.answers.METRICS``.
    """
    apart = 100 * (row_scores([before], rows, metric) - row_scores([after], rows, metric))
    interval = bootstrap(apart, clusters=pictures_of(rows))
    return Measurement(
        float(apart.mean()), "points", len(rows), interval.low, interval.high, method=f"paired; {interval.method}",
        baseline=0.0, split="task", better="lower",
    )  # fmt: skip


def loss_share(line: Line, other: Line) -> Measurement:
    """Return how much of what another copy lost of the parent's perplexity a copy lost; 0.5 is half as much.

    Args:
        line: The copy, such as a calibrated one.
        other: What it is held against, such as plain nf4.
    """
    lost, most = (one.perplexity_ratio.value - 1 for one in (line, other))
    method = f"perplexity over the parent's, less 1, against {other.name}'s; one text"
    return Measurement(lost / most, "x", line.perplexity_ratio.n, method=method, better="lower")


@dataclass(frozen=True)
class Advice:
    """Which copy to take.

    Args:
        line: The copy; None where none fits.
        why: The reason, in words.
    """

    line: Line | None
    why: str


def recommend(
    lines: Sequence[Line], *, max_mb: float, points: float = 1.0, parameters: int = 0, speed: str = ""
) -> Advice:
    """Return the copy to take under a stated budget.

    Below two billion parameters a copy of four bits is only recommended where nothing else fits.

    Args:
        lines: From ``compare``.
        max_mb: Megabytes that the language tower may take.
        points: Points of the task's score that may be lost; without a task, percent of perplexity.
        parameters: The language tower's parameters; 0 for unknown, which counts as small.
        speed: A name in ``Line.speed`` by which the fastest fitting copy is chosen; by default the most faithful is.
    """
    small = [one for one in lines if one.mb <= max_mb]
    if not small:
        least = min(lines, key=lambda one: one.mb)
        return Advice(None, f"nothing fits {max_mb:g} MB; the smallest is {least.name} with {least.mb:.3g} MB")
    good = [one for one in small if _loss_of(one) <= points]
    if not good:
        best = min(small, key=_loss_of)
        return Advice(
            None, f"nothing within {points:g} points fits {max_mb:g} MB; {best.name} loses {_loss_of(best):.3g}"
        )
    wide = [one for one in good if one.to not in _FOUR_BITS or parameters >= SMALL]
    chosen = wide or good
    best = max(chosen, key=lambda one: one.speed[speed].value) if speed else min(chosen, key=_loss_of)
    forced = "" if wide else ", though four bits cost much below 2 billion parameters: nothing larger fits"
    return Advice(best, f"{best.name}: {best.mb:.3g} MB, {_loss_of(best):.3g} points lost{forced}")


def _loss_of(line: Line) -> float:
    return line.lost.value if line.lost is not None else 100 * (line.perplexity_ratio.value - 1)


def _mb(one: Contender) -> float:
    known = one.said.get("mb")
    return known.value if known is not None else held_bytes(one.model.language) / MB


def _with_floors(mb: float, timed: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """Exchange what could have been read in a token's time for the copy's share of it: 1 is as quick as can be.

    Each token reads all of a copy's weights once, from memory as quick as it was in the same round.
    """
    known = {name: one for name, one in timed.items() if not name.startswith("bytes_")}
    for name, one in timed.items():
        if name not in known:
            shares = (mb * MB / number for number in (one.value, one.high, one.low) if number is not None)
            known[name.replace("bytes_a_token", "floor")] = Measurement(
                next(shares), "share", one.n, next(shares), next(shares), level=None, better="higher",
                method=f"{one.method}; weights over what memory gives in a token's time",
            )  # fmt: skip
    return known


def _loss(model: VisionLanguage, passages: Sequence[Passage]) -> TextLoss:
    most = getattr(model.model.config.get_text_config(), "max_position_embeddings", None) or _CONTEXT
    context = min(_CONTEXT, most)
    return text_loss(model.model, model.processor.tokenizer, passages, context=context, stride=context // 2)


def _answering(rows: Sequence[Asked]) -> Callable[[VisionLanguage], list[str]]:
    return lambda model: answer(model, [row.picture for row in rows], [row.question for row in rows], max_new_tokens=8)


def _task(parent: list[str], copy: list[str], rows: Sequence[Asked], metric: str) -> tuple[Measurement, Measurement]:
    score = score_answers([copy], rows, split="task", metrics=(metric,))[metric]
    return score, points_lost(parent, copy, rows, metric=metric)


def _remembered(model: VisionLanguage) -> Callable[[Conversation], Any]:
    run, kept = logits_of(model), {}

    def once(probe: Conversation) -> Any:
        if probe.id not in kept:
            kept[probe.id] = run(probe)
        return kept[probe.id]

    return once

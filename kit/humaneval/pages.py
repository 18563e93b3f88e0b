"""What a client is told of a study: the question, one page at a time, and where the sitting stands; all of it blind."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kit.humaneval.media import Media, output_media, prompt_media
from kit.humaneval.schedule import Task
from kit.humaneval.study import Study

KEPT = "The database does not answer just now. Your answer is kept and will be sent again."
AWAY = "The database does not answer just now. Nothing is lost; trying again."
ELSEWHERE = "That one was answered in another window, or is no longer yours. Here is the next."
NOTHING_TO_UNDO = "There is nothing to take back."


@dataclass(frozen=True)
class Form:
    """What every page of a study has in common.

    Args:
        question: What raters are asked.
        design: "pairwise", "likert" or "best_of".
        rubric: For "likert": the labels of each criterion, from worst to best.
    """

    question: str
    design: str
    rubric: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, study: Study) -> Form:
        """Return a study's form."""
        return cls(study.question, study.design, study.rubric)


@dataclass(frozen=True)
class Page:
    """What a rater sees of one task: nothing in it tells who made what.

    Args:
        token: Stands for the task; the same for the same task in the same sitting, also after a restart.
        prompt: What was asked: picture, sound and text, as far as there are.
        answers: What was made of it, from left to right; one for a rubric.
    """

    token: str
    prompt: tuple[Media, ...]
    answers: tuple[Media, ...]

    @classmethod
    def of(cls, study: Study, task: Task, *, token: str) -> Page:
        """Return a task's page.

        Raises:
            DataError: a picture cannot be opened, or a sound cannot be read.
        """
        item = study.by_id[task.item]
        return cls(token, prompt_media(item), output_media([item.outputs[name] for name in task.shown]))


class PageMaker(Protocol):
    """What makes a task's page: ``Page.of``, or something that keeps what was drawn."""

    def __call__(self, study: Study, task: Task, *, token: str) -> Page:
        """Return the page."""


@dataclass(frozen=True)
class State:
    """Where a sitting stands.

    Args:
        status: "asking" (``page`` waits for its answer), "unsaved" (what was sent last is kept and was not committed:
            call ``retry``), "away" (the database does not answer: call ``state`` again), "waiting" (what is left is
            open in other windows: call ``state`` again in a while) or "finished".
        page: What to show; None where there is nothing.
        done: Tasks answered.
        left: Tasks to come, the shown one included.
        left_s: Seconds that they will take, by the rater's own median; None before three votes were measured.
        decision: The state of the decision, under letters; may be empty.
        message: What to tell the rater besides; may be empty.
        last: The id of the vote that an undo takes back; empty where there is none.
    """

    status: str
    page: Page | None
    done: int
    left: int
    left_s: float | None
    decision: str = ""
    message: str = ""
    last: str = ""


def token_of(study: Study, task: Task, *, rater: str, holder: str) -> str:
    """Return what stands for a task in one window: an HMAC, which tells nothing and is the same after a restart."""
    key = f"{study.digest}\n{rater}\n{holder}".encode()
    return hmac.new(key, f"{task.key}\n{'|'.join(task.shown)}".encode(), hashlib.sha256).hexdigest()[:24]

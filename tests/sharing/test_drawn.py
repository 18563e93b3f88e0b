"""What is kept is what would be drawn, on either side, and no more than there is room for."""

import shutil
import threading
from dataclasses import replace

import pytest
from voting_study import CONDITIONS, picture_study

from kit.errors import KitError
from kit.humaneval.pages import Page
from kit.humaneval.schedule import tasks_of
from kit.sharing.drawn import Drawn


def test_the_same_pages_from_what_is_kept_on_either_side(tmp_path):
    study = picture_study(tmp_path)
    tasks = tasks_of(study, "ana")
    swapped = [replace(task, shown=task.shown[::-1]) for task in tasks]
    wanted = [Page.of(study, task, token="t") for task in (*tasks, *swapped)]
    drawn = Drawn()
    drawn.warm(study, tasks, threading.Event())
    for name in CONDITIONS:
        shutil.rmtree(tmp_path / name)  # from here on, nothing can be drawn
    assert [drawn.page(study, task, token="t") for task in (*tasks, *swapped)] == wanted
    assert wanted[0] != wanted[len(tasks)]


def test_no_more_than_there_is_room_for(tmp_path):
    study = picture_study(tmp_path)
    tasks = tasks_of(study, "ana")
    one = sum(len(media.content) for media in Page.of(study, tasks[0], token="").answers)
    drawn = Drawn(most_bytes=5 * one)
    for task in tasks:
        drawn.page(study, task, token="")
        assert drawn._size_bytes <= 5.5 * one
    shutil.rmtree(tmp_path / CONDITIONS[0])
    assert drawn.page(study, tasks[-1], token="")
    with pytest.raises(KitError):
        drawn.page(study, tasks[0], token="")
    little = Drawn(most_bytes=1)
    little.warm(study, tasks[-1:], threading.Event())  # it cannot be drawn, which is for whoever opens it

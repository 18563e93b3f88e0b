"""A vote is one committed row, whoever sends it how often; and nobody is handed what another one holds."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from small_studies import cast, make_study

from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.schedule import tasks_of
from kit.humaneval.store import Store


def votes(store, **options):
    return list(store.votes("captions", **options))


def in_threads(n, work):
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(work, range(n)))


def test_a_rater_goes_through_the_schedule(store):
    study = make_study(repeats=0.2)
    store.register(study)
    seen = []
    while task := store.hand_out(study, "ana", holder="w"):
        seen.append(task)
        assert store.record(study, cast(study, task))
    assert seen == list(tasks_of(study, "ana"))
    assert len(seen) == 6  # five pairs that differ, and a repeat
    kept = votes(store, rater="ana")
    assert [vote.task for vote in kept] == seen
    assert all(abs(vote.at - time.time()) < 60 for vote in kept)
    assert kept[0].outputs == tuple(study.by_id[kept[0].item].outputs[name].id for name in kept[0].shown)
    assert store.hand_out(study, "ben", holder="w") is not None


def test_identical_outputs_are_ties_apart(store):
    study = make_study()
    store.register(study)
    store.register(study)
    (tie,) = votes(store)
    assert (tie.item, tie.answer, tie.kind, tie.rater) == ("item 0", "tie", "identical", "")
    assert store.studies() == {"captions": 0}
    assert len(store.table("captions")) == 1
    assert len(store.table("captions").comparisons()) == 0
    with pytest.raises(StudyError, match="was not shown"):
        store.record(study, cast(study, tie.task))


def test_a_study_may_change_until_its_first_vote(store):
    study = make_study()
    store.register(study)
    task = store.hand_out(study, "ana", holder="w")
    changed = make_study(question="Which is worse?", n=3)
    store.register(changed)
    assert store.protocol("captions") == changed.protocol()
    assert len(votes(store)) == 1
    with pytest.raises(StudyError, match="is not the study that is in the store"):
        store.hand_out(study, "ana", holder="w")
    store.register(study)
    task = store.hand_out(study, "ana", holder="w")
    vote = cast(study, task)
    store.record(study, vote)
    store.undo(study, rater="ana", undoes=vote.uuid, uuid=str(uuid.uuid4()))
    with pytest.raises(StudyError) as caught:
        store.register(changed)
    assert "changed after its first vote" in str(caught.value)
    assert 'question: was "Which is better?" and is "Which is worse?"' in str(caught.value)
    assert "item 5.prompt: was" in str(caught.value)
    store.register(study)


def test_a_resend_is_the_same_row(store):
    study = make_study()
    store.register(study)
    task = store.hand_out(study, "ana", holder="w")
    vote = cast(study, task)
    assert sum(in_threads(6, lambda _: store.record(study, vote))) == 1
    assert store.record(study, replace(vote, ms=99)) is False
    with pytest.raises(StudyError, match=f"vote {vote.uuid}: another vote has this id"):
        store.record(study, replace(vote, answer="right"))
    assert [one.uuid for one in votes(store, rater="ana")] == [vote.uuid]


def test_what_is_refused(store):
    study = make_study(gold=(Item("g", {"right": Output("r"), "wrong": Output("w")}, "p"),))
    store.register(study)
    task = store.hand_out(study, "ana", holder="w")
    vote = cast(study, task)
    for wrong, said in (
        (replace(vote, rater="anna"), "no such rater: 'anna'. Did you mean 'ana'?"),
        (replace(vote, rater="ben"), "ben was not shown"),
        (replace(vote, shown=vote.shown[::-1], outputs=vote.outputs[::-1]), "was not shown"),
        (replace(vote, item="item 99"), "ana was not shown 'item 99'"),
        (replace(vote, kind="gold"), "was not shown"),
        (replace(vote, outputs=("x", "y")), "its outputs are not the study's"),
        (replace(vote, answer="lft"), "no such answer: 'lft'. Did you mean 'left'?"),
        (replace(vote, uuid="1"), "'1' is no UUID"),
    ):
        with pytest.raises(StudyError) as caught:
            store.record(study, wrong)
        assert said in str(caught.value)
    assert votes(store, rater="ana") == []
    store.record(study, vote)
    with pytest.raises(StudyError, match="ana answered this already"):
        store.record(study, replace(vote, uuid=str(uuid.uuid4())))
    with pytest.raises(StudyError, match=r"no study 'capitons'\. Did you mean 'captions'"):
        store.table("capitons")
    with pytest.raises(StudyError, match="no such rater: 'cy'"):
        store.hand_out(study, "cy", holder="w")


def test_one_task_gets_one_answer_even_from_many_windows(store):
    study = make_study()
    store.register(study)
    task = store.hand_out(study, "ana", holder="w")

    def send(_):
        try:
            return store.record(study, cast(study, task))
        except StudyError:
            return False

    assert sum(in_threads(6, send)) == 1
    assert len(votes(store, rater="ana")) == 1


def test_undo_appends_and_the_pair_comes_again(store):
    study = make_study()
    store.register(study)
    task = store.hand_out(study, "ana", holder="w")
    vote, name = cast(study, task), str(uuid.uuid4())
    store.record(study, vote)
    for rater, undoes, said in (("ben", vote.uuid, "ben has no vote"), ("ana", str(uuid.uuid4()), "ana has no vote")):
        with pytest.raises(StudyError, match=said):
            store.undo(study, rater=rater, undoes=undoes, uuid=str(uuid.uuid4()))
    assert sum(in_threads(4, lambda _: store.undo(study, rater="ana", undoes=vote.uuid, uuid=name))) == 1
    with pytest.raises(StudyError, match="was taken back before"):
        store.undo(study, rater="ana", undoes=vote.uuid, uuid=str(uuid.uuid4()))
    with pytest.raises(StudyError, match="ana has no vote"):
        store.undo(study, rater="ana", undoes=name, uuid=str(uuid.uuid4()))
    assert votes(store, rater="ana") == []
    assert [row.kind for row in votes(store, rater="ana", every=True)] == ["first", "undo"]
    assert len(store.table("captions").comparisons()) == 0
    assert store.hand_out(study, "ana", holder="w") == task
    store.record(study, cast(study, task, "right"))
    assert [one.answer for one in votes(store, rater="ana")] == ["right"]


def test_a_repeat_waits_for_its_first_time_whatever_the_order(store):
    study = make_study(n=30, repeats=0.2)
    store.register(study)
    hasty = sorted(tasks_of(study, "ana"), key=lambda task: task.kind != "repeat")
    seen = []
    while task := store.hand_out(study, "ana", holder="w", tasks=hasty):
        seen.append(task.key)
        store.record(study, cast(study, task))
    assert len(seen) == 35
    gaps = [seen.index(key) - seen.index(key.replace("repeat", "first", 1)) for key in seen if key.startswith("repeat")]
    assert len(gaps) == 6
    assert min(gaps) > 10


def test_two_windows_never_hold_the_same_pair(store):
    study = make_study(n=13)
    store.register(study)
    found = in_threads(8, lambda number: store.hand_out(study, "ana", holder=f"window {number}"))
    assert len({task.key for task in found}) == 8
    again = [store.hand_out(study, "ana", holder=f"window {number}") for number in range(8)]
    assert {task.key for task in again} == {task.key for task in found}
    others = [store.hand_out(study, "ana", holder=f"other {number}") for number in range(5)]
    assert others[-1] is None
    assert not {task.key for task in others[:-1]} & {task.key for task in found}
    store.release(study, "window 0")
    assert store.hand_out(study, "ana", holder="late").key == again[0].key


def test_a_lease_ends_and_its_late_answer_still_counts(store):
    study = make_study(n=2)
    store.register(study)
    task = store.hand_out(study, "ana", holder="first")
    assert store.hand_out(study, "ana", holder="second") is None
    assert store.hand_out(study, "ana", holder="first", lease_s=0.0) == task  # renewed, and over
    assert store.hand_out(study, "ana", holder="second") == task
    assert store.record(study, cast(study, task))
    assert store.hand_out(study, "ana", holder="second") is None


def test_a_pair_goes_to_as_many_raters_as_the_study_says(store):
    names = ("ana", "ben", "cy", "dora")
    study = make_study(n=9, raters=names, raters_per_pair=2, repeats=0.2)
    store.register(study)

    def rate(number):
        count = 0
        while task := store.hand_out(study, names[number], holder=str(number)):
            store.record(study, cast(study, task, rater=names[number]))
            count += 1
        return count

    in_threads(4, rate)
    first = [vote for vote in votes(store) if vote.kind == "first"]
    raters = {}
    for vote in first:
        raters.setdefault(vote.item, []).append(vote.rater)
    assert {item: len(set(who)) for item, who in raters.items()} == {f"item {n}": 2 for n in range(1, 9)}
    assert len(first) == 16
    repeats = [vote for vote in votes(store) if vote.kind == "repeat"]
    assert repeats
    assert all(vote.rater in raters[vote.item] for vote in repeats)  # nobody repeats what somebody else was asked


def test_the_table_is_the_votes(store):
    study = make_study(n=8, conditions=("a", "b", "c"), repeats=0.3)
    store.register(study)
    answers = ["left", "right", "tie", "both_bad", "skip"]
    for number in range(12):
        task = store.hand_out(study, "ben", holder="w")
        store.record(study, cast(study, task, answers[number % 5], rater="ben"))
    table, kept = store.table("captions"), [vote for vote in votes(store) if vote.answer != "skip"]
    assert table.skipped == 2
    assert table.models == ("a", "b", "c")
    for row, vote in enumerate(kept):
        assert (table.models[table.left[row]], table.models[table.right[row]]) == vote.shown
        assert (table.raters[table.rater[row]], table.items[table.item[row]]) == (vote.rater, vote.item)
        assert ("left", "right", "tie", "both_bad")[table.answer[row]] == vote.answer
        assert ("first", "repeat", "gold", "identical")[table.kind[row]] == vote.kind
        assert table.ms[row] == vote.ms
    assert len(table) == len(kept)


def test_many_processes_open_an_empty_database_at_once(url):
    assert len(in_threads(6, lambda _: Store(url).close())) == 6


def test_an_export_sees_one_moment(store):
    study = make_study(n=30)
    store.register(study)
    for _ in range(10):
        store.record(study, cast(study, store.hand_out(study, "ana", holder="w")))
    reading = store.votes("captions", rater="ana")
    first = next(reading)
    store.record(study, cast(study, store.hand_out(study, "ana", holder="w")))
    assert len([first, *reading]) == 10
    assert json.loads(json.dumps(store.protocol("captions"))) == study.protocol()

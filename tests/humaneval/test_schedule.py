"""The order is random, the same each time, and holds what the protocol says."""

from collections import Counter

from small_studies import make_study

from kit.humaneval.items import Item, Output
from kit.humaneval.schedule import REPEAT_GAP, identical, tasks_of


def gold(n):
    return tuple(Item(f"gold {i}", {"right": Output(f"r{i}"), "wrong": Output(f"w{i}")}, "p") for i in range(n))


def test_the_same_each_time_and_another_for_each_rater_and_seed():
    study = make_study(n=50, repeats=0.1, gold=gold(5))
    assert tasks_of(study, "ana") == tasks_of(make_study(n=50, repeats=0.1, gold=gold(5)), "ana")
    assert tasks_of(study, "ana") != tasks_of(study, "ben")
    assert tasks_of(study, "ana") != tasks_of(make_study(n=50, repeats=0.1, gold=gold(5), seed=1), "ana")
    ana, ben = ([task.item for task in tasks_of(study, rater) if task.kind == "first"] for rater in ("ana", "ben"))
    assert sorted(ana) == sorted(ben)
    assert sum(a == b for a, b in zip(ana, ben, strict=True)) < 8


def test_every_pair_once_repeats_swapped_and_gold_among_them():
    study = make_study(n=101, conditions=("a", "b", "c"), repeats=0.1, gold=gold(30), gold_share=0.05)
    tasks = tasks_of(study, "ana")
    kinds = Counter(task.kind for task in tasks)
    assert kinds == {"first": 300, "repeat": 30, "gold": 15}
    assert len({task.key for task in tasks}) == len(tasks)
    places = {task.key: place for place, task in enumerate(tasks)}
    for place, task in enumerate(tasks):
        if task.kind == "repeat":
            first = places[task.key.replace("repeat", "first", 1)]
            assert place - first >= REPEAT_GAP
            assert tasks[first].shown == task.shown[::-1]
    golden = [place for place, task in enumerate(tasks) if task.kind == "gold"]
    assert min(golden) < 115
    assert max(golden) > 230


def test_sides_are_a_coin():
    study = make_study(n=1001)
    left = Counter(task.shown[0] for task in tasks_of(study, "ana"))
    assert abs(left["base"] - 500) < 65  # four standard deviations
    both = zip(*(sorted(tasks_of(study, rater), key=lambda task: task.key) for rater in ("ana", "ben")), strict=True)
    assert abs(sum(a.shown == b.shown for a, b in both) - 500) < 65


def test_small_studies_get_one_repeat_and_one_gold_item_too():
    tasks = tasks_of(make_study(n=4, repeats=0.1, gold=gold(2)), "ana")
    assert Counter(task.kind for task in tasks) == {"first": 3, "repeat": 1, "gold": 1}
    places = {task.key: place for place, task in enumerate(tasks)}
    (repeat,) = [task for task in tasks if task.kind == "repeat"]
    assert places[repeat.key] > places[repeat.key.replace("repeat", "first", 1)]


def test_identical_outputs_are_not_shown():
    study = make_study(n=5, conditions=("a", "b", "c"))
    assert [task.key for task in identical(study)] == ["first|item 0|a|b", "first|item 0|a|c", "first|item 0|b|c"]
    assert not any(task.item == "item 0" for task in tasks_of(study, "ana"))


def test_rubrics_show_one_output_and_rankings_all():
    rubric = make_study(n=20, design="likert", rubric={"good": ("no", "yes")}, repeats=0.1)
    tasks = tasks_of(rubric, "ana")
    assert Counter(len(task.shown) for task in tasks) == {1: 44}
    ranking = make_study(n=60, design="best_of", conditions=("a", "b", "c"))
    tasks = tasks_of(ranking, "ana")
    assert len(tasks) == 60
    assert len({task.shown for task in tasks}) == 6
    assert identical(ranking) == []

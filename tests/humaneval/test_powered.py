"""Prediction-powered means: ppi-python's numbers, coverage with good and bad judges, and what the judge saves."""

import numpy as np
import pytest
from scipy.stats import norm, t

from kit.humaneval.errors import StudyError
from kit.humaneval.powered import powered_mean, powered_pairs, powered_win_share, read_judge
from kit.humaneval.simulate import simulated_votes


def drawn():
    generator = np.random.default_rng(11)
    scores = [0, 0.5, 1.0]
    y = generator.choice(scores, p=[0.3, 0.2, 0.5], size=60)
    f = np.clip(0.6 * y + 0.4 * generator.random(60) + 0.1, 0, 1)
    others = 0.6 * generator.choice(scores, p=[0.3, 0.2, 0.5], size=900) + 0.4 * generator.random(900) + 0.1
    return y, f, np.clip(others, 0, 1)


def test_the_same_as_ppi_python():
    found = powered_mean(*drawn()).mean
    # ppi_mean_ci(y, f, others, lam=1.4310980929291452) of ppi-python 0.2.3: normal quantile, variances divided by n.
    low, high = 0.5497722, 0.65970419
    assert found.value == pytest.approx(0.6047382, abs=1e-7)
    wider = t.ppf(0.975, 59) / norm.ppf(0.975) * np.sqrt(60 / 59)
    assert (found.high - found.low) / (high - low) == pytest.approx(wider, rel=3e-3)


def world(generator, n, kind):
    """People's scores, and a judge who is good, biased, random, or the opposite of right."""
    y = (generator.random(n) < 0.6).astype(float)
    noise = generator.random(n)
    judge = {"good": 0.8 * y + 0.2 * noise, "biased": 0.3 * y + 0.7, "random": noise, "opposite": 1 - y}[kind]
    return y, judge


@pytest.mark.parametrize("kind", ["good", "biased", "random", "opposite"])
def test_coverage_whatever_the_judge(kind):
    generator = np.random.default_rng(0)
    hits, widths, alone = 0, [], []
    for _ in range(600):
        y, judge = world(generator, 80, kind)
        found = powered_mean(y, judge, world(generator, 1000, kind)[1])
        hits += found.mean.low <= 0.6 <= found.mean.high
        widths.append(found.mean.high - found.mean.low)
        alone.append(2 * t.ppf(0.975, 79) * y.std(ddof=1) / np.sqrt(80))
    assert 0.93 <= hits / 600 <= 0.975  # nominal 0.95, standard error of the simulation 0.009
    gain = np.mean(widths) / np.mean(alone)
    assert gain < {"good": 0.35, "biased": 0.6, "random": 1.02, "opposite": 0.35}[kind]
    assert gain > {"random": 0.97}.get(kind, 0.2)


def test_effective_is_what_people_alone_would_need():
    y, f, others = drawn()
    found = powered_mean(y, f, others)
    spread = (found.mean.high - found.mean.low) / 2 / t.ppf(0.975, 59)
    assert found.effective == pytest.approx(y.var(ddof=1) / spread**2)
    assert f"as sure as {found.effective:.0f} items" in found.mean.method


def test_a_judge_who_says_always_the_same_is_not_listened_to():
    y, _, _ = drawn()
    found = powered_mean(y, np.ones(60), np.ones(500))
    assert found.weight == 0
    assert found.effective == pytest.approx(60)
    assert found.mean.value == pytest.approx(y.mean())


def test_votes_are_averaged_by_item():
    table = simulated_votes([0.8, -0.8], raters=3, items=40, seed=0)
    judge = {f"item {n}": float(n % 3 > 0) for n in range(300)}
    found = powered_win_share(table, "model 0", "model 1", judge)
    assert found.mean.n == 40
    score = np.select([table.answer == 0, table.answer == 1], [table.left == 0, table.right == 0], 0.5)
    means = [score[table.item == item].mean() for item in range(40)]
    same = powered_mean(means, [judge[f"item {n}"] for n in range(40)], [judge[f"item {n}"] for n in range(40, 300)])
    assert found.mean.value == pytest.approx(same.mean.value)
    other = powered_win_share(table, "model 1", "model 0", {name: 1 - score for name, score in judge.items()})
    assert other.mean.value == pytest.approx(1 - found.mean.value)
    with pytest.raises(
        StudyError, match="no score of the judge for 1 items that people judged, the first being 'item 7'"
    ):
        powered_win_share(table, "model 0", "model 1", {name: s for name, s in judge.items() if name != "item 7"})


def judged(path, n=300, names=("model 0", "model 1"), **changed):
    lines = [f"item {i},{i % 3 / 2},{changed.get(f'item {i}', 0.5)}" for i in range(n)]
    path.write_text("\n".join([f"item,{names[0]},{names[1]}", *lines]) + "\n")
    return path


def test_points_of_a_judge_come_from_a_file(tmp_path):
    table = simulated_votes([0.8, -0.8], raters=3, items=40, seed=0)
    (pair,) = powered_pairs(table, read_judge(judged(tmp_path / "points.csv")))
    lead = {f"item {i}": i % 3 / 2 - 0.5 for i in range(300)}
    assert pair.share == powered_win_share(table, "model 0", "model 1", lead)
    assert pair.to_text().startswith(f"model 0 wins {pair.share.mean.value:.3f} [")
    assert "by 40 items that people judged; prediction-powered" in pair.to_text()


def test_the_scale_of_the_points_is_no_matter():
    table = simulated_votes([0.8, -0.8], raters=3, items=40, seed=0)
    generator = np.random.default_rng(0)
    points = {f"item {i}": dict(zip(table.models, generator.random(2), strict=True)) for i in range(300)}
    larger = {name: {model: 100 * one - 7 for model, one in by.items()} for name, by in points.items()}
    (one,), (other,) = powered_pairs(table, points), powered_pairs(table, larger)
    assert (other.share.mean.value, other.share.mean.low) == pytest.approx((one.share.mean.value, one.share.mean.low))


def test_bad_files_of_a_judge(tmp_path):
    table = simulated_votes([0.8, -0.8], raters=3, items=40, seed=0)
    with pytest.raises(StudyError, match=r"line 4: model 1: must be a finite number, got 'good'\n.*line 6"):
        read_judge(judged(tmp_path / "a.csv", **{"item 2": "good", "item 4": "inf"}))
    with pytest.raises(StudyError, match=r"'model 3' was never voted on. Did you mean 'model [01]'"):
        powered_pairs(table, read_judge(judged(tmp_path / "b.csv", names=("model 0", "model 3"))))
    with pytest.raises(StudyError, match="the judge scored 0 items that people did not judge, two are needed"):
        powered_pairs(table, read_judge(judged(tmp_path / "c.csv", n=40)))
    (tmp_path / "d.csv").write_text("id,model 0\nx,1\n")
    with pytest.raises(StudyError, match="begin the file with a line such as item,base,adapted"):
        read_judge(tmp_path / "d.csv")


def test_bad_input():
    with pytest.raises(StudyError) as caught:
        powered_mean([1.0], [1.0, np.nan], [])
    said = str(caught.value)
    for part in (
        "human: at least two finite",
        "judge: at least two finite",
        "elsewhere: at least",
        "2 scores for 1 items",
    ):
        assert part in said

"""The comparison: everything about each copy, the Pareto front, and a recommendation for a budget."""

import dataclasses

import pytest
from PIL import Image

from kit.data.picture import Picture
from kit.data.prose import load_prose
from kit.data.rows import Question
from kit.errors import DataError
from kit.quantization.compare import Contender, Line, compare, loss_share, pareto, points_lost, recommend
from kit.quantization.copies import merged, quantised
from kit.quantization.parity import Parity
from kit.quantization.probes import fixed_probes
from kit.result import Measurement, Result

SAME = Parity(0.0, 0.0, 0.0, 1.0, 10, "", 0)


def line(name, mb, perplexity, *, to="int8", lost=None, speed=1.0):
    points = None if lost is None else Measurement(lost, "points", 10)
    return Line(
        name, to, mb, mb / 538, SAME, Measurement(perplexity, "perplexity", 9), Measurement(perplexity / 20, "x", 9),
        lost=points, speed={"decode_64": Measurement(speed, "tokens/s", 3)},
    )  # fmt: skip


LINES = [
    line("float32", 538, 20.0, to="float32", lost=0.0, speed=15),
    line("bfloat16", 269, 20.01, to="bfloat16", lost=0.1, speed=16),
    line("int8", 163, 20.1, lost=0.3, speed=30),
    line("slow int8", 219, 20.5, lost=0.2, speed=8),
    line("nf4", 117, 31.0, to="nf4", lost=0.9, speed=20),
]


def test_the_front_holds_what_nothing_beats_in_size_and_perplexity():
    assert [one.name for one in pareto(LINES)] == ["nf4", "int8", "bfloat16", "float32"]
    assert [one.name for one in pareto([LINES[0], line("worse", 600, 21)])] == ["float32"]


def test_a_recommendation_keeps_the_budget_and_says_why():
    assert recommend(LINES, max_mb=300).line.name == "bfloat16"
    assert recommend(LINES, max_mb=300, speed="decode_64").line.name == "int8"
    assert recommend(LINES, max_mb=200).line.name == "int8"
    forced = recommend(LINES, max_mb=130)
    assert forced.line.name == "nf4"
    assert "four bits cost much below 2 billion" in forced.why
    assert recommend(LINES, max_mb=600, points=-1).why.startswith("nothing within -1 points fits 600 MB")
    nothing = recommend(LINES, max_mb=50)
    assert nothing.line is None
    assert nothing.why == "nothing fits 50 MB; the smallest is nf4 with 117 MB"
    large = [dataclasses.replace(LINES[4], lost=Measurement(0.0, "points", 10)), LINES[2]]
    assert recommend(large, max_mb=300, parameters=7_000_000_000).line.name == "nf4"
    assert recommend(large, max_mb=300, parameters=100_000_000).line.name == "int8"


def test_without_a_task_percent_of_perplexity_are_points():
    found = recommend([line("int8", 163, 20.1), line("nf4", 117, 31.0, to="nf4")], max_mb=300)
    assert (found.line.name, found.why) == ("int8", "int8: 163 MB, 0.5 points lost")


def test_a_copys_loss_is_said_as_a_share_of_anothers():
    found = loss_share(LINES[2], LINES[4])
    assert found.value == pytest.approx(0.005 / 0.55)
    assert "against nf4's" in found.method


def test_points_are_lost_question_by_question(rows):
    found = points_lost(["red", "blue", "green"], ["red", "red", "green"], rows)
    assert found.value == pytest.approx(100 / 3)
    assert (found.n, found.better, found.baseline) == (3, "lower", 0.0)
    assert found.low < found.value < found.high
    assert points_lost(["red", "red", "green"], ["red", "blue", "green"], rows).value == pytest.approx(-100 / 3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("rows"), []
    for number, colour in enumerate(["red", "blue", "green"]):
        Image.new("RGB", (32, 32), colour).save(folder / f"{colour}.png")
        rows.append(Question(str(number), Picture.at(folder / f"{colour}.png"), "What colour?", colour))
    return rows


def test_a_comparison_of_real_copies_is_a_result(bundle, rows):
    parent = merged(bundle)
    contenders = [Contender("float32", parent, "float32")]
    for name in ("torchao-int8", "bitsandbytes-nf4"):
        copy = quantised(parent, name, dtype="float32")
        said = {"quantise_s": Measurement(copy.wall_s, "s", 1, better="lower")}
        contenders.append(Contender(name, copy.model, name.rpartition("-")[2], said=said))
    lines = compare(
        contenders, passages=load_prose(limit=2, words=30), probes=fixed_probes()[::6], rows=rows, lengths=(16,),
        rounds=1, new_tokens=2,
    )  # fmt: skip
    base, int8, nf4 = lines
    assert base.perplexity_ratio.value == 1
    assert base.parity.max_logit == base.lost.value == 0
    assert nf4.mb < int8.mb < base.mb
    assert (base.share, int8.share) == (1, int8.mb / base.mb)
    assert 0 < int8.speed["floor_16"].value < 1
    assert 0 < int8.parity.mean_logit < nf4.parity.mean_logit
    assert abs(int8.perplexity_ratio.value - 1) < 0.05
    assert int8.parity.task == int8.lost.value
    result = Result({name: one for each in lines for name, one in each.measurements().items()})
    assert {"torchao_int8_mb", "torchao_int8_quantise_s", "float32_decode_16", "bitsandbytes_nf4_points_lost"} <= set(
        result.measurements
    )
    with pytest.raises(DataError, match="nothing to compare with"):
        compare(contenders[:1], passages=[], probes=[])

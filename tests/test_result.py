"""The JSON that notebook and runner share: equal after a round trip, and nothing in it that is no number."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import ResultError
from kit.result import MIME, SCHEMA, Measurement, Result, save_result

finite = st.floats(allow_nan=False, allow_infinity=False)
measurements = st.builds(
    Measurement,
    finite,
    st.sampled_from(["share", "s", "pictures/s", "×"]),
    st.integers(1, 10**12),
    method=st.text(),
    baseline=st.none() | finite,
    split=st.text(),
    better=st.sampled_from(["higher", "lower", "neither"]),
)


@given(
    st.dictionaries(st.from_regex(r"[a-z_][a-z_0-9]*", fullmatch=True), measurements, min_size=1), st.lists(st.text())
)
def test_a_result_is_equal_after_a_round_trip(found, notes):
    result = Result(found, notes=tuple(notes), bundles=("a", "b"))
    text = json.dumps(result.to_json(), allow_nan=False)
    assert Result.from_json(json.loads(text)) == result


@pytest.mark.parametrize("name", ["value", "low", "high", "baseline"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "0.5", True])
def test_what_is_no_finite_number_is_refused(name, bad):
    good = {"value": 0.5, "low": 0.4, "high": 0.6, "baseline": 0.1}
    with pytest.raises(ResultError, match=rf"result\.recall\.{name}: must be a finite number"):
        Result({"recall": Measurement(**{**good, name: bad}, unit="share", n=3)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 0}, "n: must be a whole number of at least 1, got 0"),
        ({"n": 2.0}, "n: must be a whole number"),
        ({"n": True}, "n: must be a whole number"),
        ({"unit": ""}, "unit: must be a word"),
        ({"better": "up"}, "better: must be higher, lower or neither, got 'up'"),
        ({"low": 0.1}, "low: an interval has two ends or none"),
        ({"level": 95}, "level: must be above 0 and below 1, or None, got 95"),
    ],
)
def test_a_measurement_that_is_not_well_formed(change, said):
    with pytest.raises(ResultError, match=said):
        Result({"m": dataclasses.replace(Measurement(0.5, "share", 3), **change)})


def test_all_faults_at_once():
    with pytest.raises(ResultError) as caught:
        Result({"a b": Measurement(math.nan, "", 0), "c": Measurement(1, "s", -1)})
    assert len(caught.value.faults) == 5


def test_an_empty_result_is_none():
    with pytest.raises(ResultError, match="holds no measurement"):
        Result({})


def test_a_result_of_a_newer_kit_says_so():
    values = {**Result({"m": Measurement(1, "s", 1)}).to_json(), "schema": SCHEMA + 1}
    with pytest.raises(ResultError, match=r"(?s)schema 2 is newer than this kit reads.*pip install -U"):
        Result.from_json(values, where="runs/x/result.json")


@pytest.mark.parametrize(
    "values",
    [
        None, [], {}, {"measurements": []}, {"measurements": {"m": 3}}, {"measurements": {"m": {"value": 1}}},
        {"measurements": {"m": {"value": 1, "unit": "s", "n": 1, "extra": 2}}},
        {"measurements": {"m": {"value": 1, "unit": "s", "n": 1}}, "schema": "2"},
    ],
)  # fmt: skip
def test_what_is_no_result_is_one_clear_error(values):
    with pytest.raises(ResultError, match=r"^here"):
        Result.from_json(values, where="here")


def test_a_measurement_on_one_line():
    text = str(Measurement(0.17, "share", 311, 0.13, 0.21, baseline=0.003))
    assert text == "0.17 share [0.13, 0.21], n=311, baseline 0.003"
    assert Result({"a": Measurement(1, "s", 1), "long": Measurement(2, "s", 2)}).to_text().splitlines() == [
        "a     1 s, n=1",
        "long  2 s, n=2",
    ]


def test_saving_shows_the_result_as_an_output_of_the_cell():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    with capture_output() as shown:
        result = save_result({"m": Measurement(1, "s", 1)}, notes=("why",))
    (output,) = shown.outputs
    assert Result.from_json(output.data[MIME]) == result
    assert output.data["text/plain"] == result.to_text()


def test_a_range_is_not_printed_as_an_interval() -> None:
    ranged = Measurement(2.0, "x", n=3, low=1.5, high=2.5, level=None)
    assert "(1.5 to 2.5)" in str(ranged)
    assert "[1.5, 2.5]" in str(Measurement(2.0, "x", n=3, low=1.5, high=2.5))
    assert Result.from_json(Result({"speed": ranged}).to_json()).measurements["speed"].level is None

"""What a run's cells made is found again by the same cells, and by nothing else."""

import errno
import os
from collections import Counter

import pytest

from kit.errors import ModelError
from kit.models import products


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_PRODUCTS", str(tmp_path / "kept"))
    again(monkeypatch)
    return tmp_path / "kept"


def again(monkeypatch):
    """Be another process: one that has made nothing yet."""
    monkeypatch.setattr(products, "_times", Counter())


def test_without_a_run_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("KIT_PRODUCTS", raising=False)
    made = iter(range(9))
    assert [products.kept("n", lambda: "key", lambda: next(made)) for _ in range(2)] == [0, 1]
    assert products.kept("n", lambda: "key", lambda: next(made), tmp_path / "target") == 2


def test_the_second_of_equal_works_is_done_again_and_found_again(place, monkeypatch):
    made = iter(range(9))

    def work():
        return [products.kept("n", lambda: "key", lambda: next(made)) for _ in range(2)]

    assert work() == [0, 1], "what is timed again and again is done again and again"
    again(monkeypatch)
    assert work() == [0, 1]
    assert next(made) == 2
    monkeypatch.setenv("KIT_PRODUCTS_OF", "another kit")
    again(monkeypatch)
    assert work() == [3, 4]


def test_other_cells_have_other_products(place, monkeypatch):
    for cells, wanted in (("a", 1), ("b", 2), ("a", 1)):
        monkeypatch.setattr(products, "_cells", lambda cells=cells: cells)
        again(monkeypatch)
        assert products.kept("n", lambda: "key", lambda wanted=wanted: wanted) == wanted


def test_a_damaged_product_is_made_anew(place, monkeypatch):
    assert products.kept("n", lambda: "key", lambda: "good") == "good"
    (file,) = place.glob("*/value.json")
    for text in ("", "{}", '{"key": "other", "value": 3}'):
        file.write_text(text)
        again(monkeypatch)
        assert products.kept("n", lambda: "key", lambda: "good") == "good"


@pytest.mark.parametrize("written", [True, False])
def test_a_folder_is_put_back_or_stays_away(place, tmp_path, monkeypatch, written):
    target, times = tmp_path / "target", []

    def make():
        times.append(1)
        if written:
            (target / "deep").mkdir(parents=True)
            (target / "deep" / "file").write_text("text")
        return {"gate": 0.5}

    for _ in range(3):
        again(monkeypatch)
        assert products.kept("export", lambda: "key", make, target) == {"gate": 0.5}
        assert target.is_dir() == written
        if written:
            assert (target / "deep" / "file").read_text() == "text"
            (target / "deep" / "file").unlink()
            (target / "deep").rmdir()
            target.rmdir()
    assert len(times) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), RuntimeError("[enforce fail] PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_is_told_once_and_plainly(tmp_path, error):
    with pytest.raises(ModelError, match=os.strerror(errno.ENOSPC)), products.full_disk_told(tmp_path):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "x"), RuntimeError("shapes do not match"), ValueError("x")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)), products.full_disk_told(tmp_path):
        raise error

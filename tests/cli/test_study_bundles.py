"""A study whose outputs come from bundles: each is asked once, and what it said stays beside the study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_bundles import clip_bundle, seeing_bundle

from kit.adapters import bundle as bundles
from kit.adapters.bundle import Bundle, save_bundle
from kit.cli.study_bundles import NOTHING, answered_study
from kit.errors import BundleError
from kit.humaneval.errors import StudyError
from kit.humaneval.protocol import read_study
from kit.models.chat import answer

HEAD = "question: Which is better?\nconditions: [other, made]\nraters: [ana]\nitems: items.jsonl\n"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return seeing_bundle(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return clip_bundle(tmp_path_factory.mktemp("clip"))


def write(folder: Path, made: str, *, n: int = 3, pictures: Path | None = None) -> Path:
    """Write a study: of one condition the outputs are in a file, of the other a bundle gives them."""
    picture = (lambda number: {"picture": str(pictures / f"{number}.png")}) if pictures else lambda _: {}
    items = [{"id": f"i{number}", "prompt": f"what is number {number}?", **picture(number)} for number in range(n)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "other.jsonl").write_text("\n".join(json.dumps({"id": f"i{n}", "text": "no"}) for n in range(n)))
    (folder / "mine.yaml").write_text(f"{HEAD}outputs: {{other: other.jsonl, made: {made}}}\n")
    return folder / "mine.yaml"


def test_a_bundle_answers_once(seeing: Bundle, tmp_path: Path, capsys, monkeypatch) -> None:
    asked = seeing.folder.parent / "asked"
    path = write(tmp_path, f"{{bundle: {seeing.folder}, tokens: 6}}", pictures=asked)
    with pytest.raises(StudyError, match=r"has not answered 3 of 3 items\s+Fix: kit study check .*mine\.yaml asks it"):
        read_study(path)
    study = answered_study(path)
    assert f"made: {seeing.folder} answers 3 items, once" in capsys.readouterr().err
    model, items = seeing.load(), study.items
    said = answer(model, [item.picture for item in items], [item.prompt for item in items], max_new_tokens=6)
    assert [item.outputs["made"].text for item in items] == [text or NOTHING for text in said]
    monkeypatch.setattr(bundles, "open_bundle", lambda _: pytest.fail("it is asked again"))
    assert answered_study(path).digest == read_study(path).digest == study.digest
    monkeypatch.undo()
    write(tmp_path, f"{{bundle: {seeing.folder}, tokens: 6}}", pictures=asked, n=4)
    answered_study(path)
    assert "answers 1 items" in capsys.readouterr().err, "what is new, and nothing else"


def test_answers_outlive_the_bundle_and_no_other_one_takes_its_place(seeing: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(seeing.folder, tmp_path / "bundle")
    path = write(tmp_path, "{bundle: bundle, tokens: 4}")
    study = answered_study(path)
    path.write_text(path.read_text().replace("{bundle: bundle, tokens: 4}", "bundle:bundle"))
    with pytest.raises(StudyError, match=r"was asked with \{'pictures': None, 'tokens': 4\}"):  # and not with 64
        answered_study(path)
    path.write_text(path.read_text().replace("bundle:bundle", "{bundle: bundle, tokens: 4}"))
    shutil.rmtree(copy)
    assert read_study(path).digest == study.digest
    save_bundle(copy, seeing.load(), name="Another")
    with pytest.raises(StudyError, match="is another bundle than the one that answered") as caught:
        answered_study(path)
    assert "mine.outputs.json to let it answer anew" in str(caught.value)
    shutil.rmtree(copy)
    path.write_text(path.read_text().replace("tokens: 4", "tokens: 5"))
    with pytest.raises(StudyError, match="was asked with"):
        read_study(path)


def test_a_dual_encoder_finds_a_picture_for_each_prompt(clip: Bundle, tmp_path: Path) -> None:
    pictures = clip.folder.parent / "pictures"
    path = write(tmp_path, f"{{bundle: {clip.folder}, pictures: {pictures}}}", n=4)
    found = [item.outputs["made"].picture for item in answered_study(path).items]
    assert {picture.path.resolve().parent for picture in found if picture and picture.path} == {pictures.resolve()}
    path.write_text(path.read_text().replace(f", pictures: {pictures}", ""))
    (tmp_path / "mine.outputs.json").unlink()
    with pytest.raises(StudyError, match="finds pictures, and the study does not say among which"):
        answered_study(path)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("{bundel: x}", "outputs.made.bundel: not a key here. Did you mean 'bundle'?"),
        ("{bundle: gone}", "outputs.made: .*gone: is no bundle"),
        ("{bundle: gone, tokens: 0}", "must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(tmp_path: Path, made: str, said: str) -> None:
    path = write(tmp_path, made)
    path.write_text(path.read_text().replace("raters: [ana]", "raters: []"))
    with pytest.raises(StudyError, match=said) as caught:
        answered_study(path)
    assert "raters: nobody is asked" in str(caught.value)


def test_a_damaged_bundle_and_a_damaged_file_of_answers(seeing: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(seeing.folder, tmp_path / "bundle")
    path = write(tmp_path, "{bundle: bundle}")
    (copy / "extra.json").write_text("{}")
    with pytest.raises(BundleError, match="is not part of what was saved"):
        answered_study(path)
    (tmp_path / "mine.outputs.json").write_text("{")
    with pytest.raises(StudyError, match=r"mine.outputs.json: cannot be read"):
        answered_study(path)

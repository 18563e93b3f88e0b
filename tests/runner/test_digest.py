"""The digest: each ingredient changes it, and what is no ingredient does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.runner import digest, machine
from kit.runner.notebook import read_notebook
from kit.runner.plan import make_plan
from kit.runner.recipe import bare_recipe


def of(notebook: Path, parameters: dict[str, Any] | None = None, inputs: tuple[tuple[str, str], ...] = ()) -> str:
    return digest.of_run(read_notebook(notebook), parameters or {}, inputs)["digest"]


@pytest.fixture
def notebook(tmp_path: Path, notebooks: Path) -> Path:
    path = tmp_path / "n.ipynb"
    path.write_bytes((notebooks / "simple.ipynb").read_bytes())
    return path


def changed(path: Path, change: Any) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_the_same_is_the_same(notebook: Path) -> None:
    assert of(notebook) == of(notebook)


def test_outputs_counts_and_metadata_do_not_count(notebook: Path) -> None:
    before = of(notebook)

    def run(document: dict[str, Any]) -> None:
        document["cells"][1] |= {
            "execution_count": 4,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}],
        }
        document["cells"][1]["metadata"]["collapsed"] = True
        document["cells"][2]["source"] = "".join(document["cells"][2]["source"])
        document["metadata"]["kernelspec"]["display_name"] = "Other"

    assert of(changed(notebook, run)) == before


def test_source_and_tags_count(notebook: Path) -> None:
    seen = {of(notebook)}
    seen.add(of(changed(notebook, lambda d: d["cells"][2].update(source="x - y"))))
    seen.add(of(changed(notebook, lambda d: d["cells"][1]["metadata"].update(tags=[]))))
    assert len(seen) == 3


def test_parameters_and_inputs_count(notebook: Path) -> None:
    assert len({of(notebook), of(notebook, {"x": 1}), of(notebook, {"x": 2}), of(notebook, {}, (("d", "ab"),))}) == 4


def test_a_default_written_out_is_the_same_run(notebooks: Path) -> None:
    recipe = bare_recipe(notebooks / "simple.ipynb")
    plain = make_plan(recipe, target="n")
    assert make_plan(recipe, target="n", given={"x": 1}).digest == plain.digest
    assert make_plan(recipe, target="n", given={"x": 2}).digest != plain.digest


def test_the_device_counts(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_DEVICE", "cpu")
    before = of(notebook)
    monkeypatch.setenv("KIT_DEVICE", "cuda:1")
    assert machine.device_type() == "cuda"
    assert of(notebook) != before


def test_versions_of_all_that_kit_runs_on_count(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {line.partition(">=")[0].replace("_", "-") for line in project["dependencies"]}
    found = machine.digested()
    assert set(found) == wanted | {"peft", "python"}
    assert list(found) == ["python", *sorted(wanted | {"peft"})]
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert all(version for name, version in found.items() if name != "peft"), "kit's own requirements are installed"


def test_without_an_installed_kit_the_recorded_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISTRIBUTION", "no-such-distribution")
    assert {"torch", "numpy", "peft", "python"} <= set(machine.digested())


@pytest.mark.parametrize("name", machine.digested())
def test_each_version_counts(notebook: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = of(notebook)
    real = machine.digested()
    monkeypatch.setattr(digest, "digested", lambda: {**real, name: "0.0.1"})
    assert of(notebook) != before


def test_kits_own_sources_count(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = digest.of_sources(tmp_path)
    (tmp_path / "notes.txt").write_text("no source")
    assert digest.of_sources(tmp_path) == before
    (tmp_path / "a.py").write_text("2")
    assert digest.of_sources(tmp_path) != before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    (tmp_path / "b.py").write_text("1")
    assert digest.of_sources(tmp_path) != before


def test_a_folders_content_counts_and_its_place_does_not(tmp_path: Path, notebooks: Path) -> None:
    recipe = bare_recipe(notebooks / "uses_part.ipynb")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.csv").write_text("file_name,text\n")
    one, two = (make_plan(recipe, target="n", given={"data": f"folder:{tmp_path / name}"}) for name in ("one", "two"))
    assert one.digest == two.digest
    (tmp_path / "two" / "metadata.csv").write_text("file_name,text\na.png,a\n")
    assert make_plan(recipe, target="n", given={"data": f"folder:{tmp_path / 'two'}"}).digest != one.digest


def test_a_stitch_counts_by_the_content_of_its_sides_and_is_written_out(
    tmp_path: Path, notebooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    given = {"model": "stitch:efficientnet-lite0+local-dir:lm"}
    path = tmp_path / "n.ipynb"
    path.write_bytes((notebooks / "simple.ipynb").read_bytes())
    changed(path, lambda n: n["cells"][1]["source"].append('\nmodel: str = "smollm2-135m"  # a model'))
    monkeypatch.chdir(tmp_path)
    plan = make_plan(bare_recipe(path), target="n", given=given)
    assert plan.values["model"] == f"stitch:efficientnet-lite0+local-dir:{tmp_path / 'lm'}"
    assert (plan.inputs[0].parts, plan.inputs[0].pinned) == (("efficientnet-lite0",), True)
    (tmp_path / "lm" / "config.json").write_text("{ }")
    assert make_plan(bare_recipe(path), target="n", given=given).digest != plan.digest

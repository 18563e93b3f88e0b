"""The RO-Crate, judged by the profile's own validator, offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.runner.history import history
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import run
from kit.runner.sweep import Prefixes, carry_out, ranked
from kit.runner.sweep_report import Swept, write_report

# Where the crate's version 1.1 names a term otherwise than 1.3, whose context the rocrate package carries:
# www.researchobject.org/ro-crate/specification/1.1/metadata.html#additional-metadata-standards
TERMS_1_1 = {
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}


@pytest.fixture
def validate(need: Callable[[bool, str], None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The validator, with the one document that it would fetch from the web taken from the rocrate package."""
    pytest.importorskip("rocrate_validator", reason="roc-validator is missing: pip install -e '.[test]'")
    import rocrate
    from rocrate_validator import services
    from rocrate_validator.utils import document_loader
    from rocrate_validator.utils.http import HttpRequester

    context = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())
    context["@context"] |= TERMS_1_1

    def get(url: str, **_: Any) -> SimpleNamespace:
        assert url == "https://w3id.org/ro/crate/1.1/context", url
        headers = {"Content-Type": "application/ld+json"}
        return SimpleNamespace(
            status_code=200, headers=headers, json=lambda: context, text=json.dumps(context), url=url
        )

    monkeypatch.setattr(HttpRequester, "get", staticmethod(get), raising=False)
    monkeypatch.setattr(document_loader, "_fetch_json_ld", lambda _: context)

    def check(folder: Path, profile: str = "workflow-run-crate-0.5") -> list[str]:
        settings = services.ValidationSettings(rocrate_uri=str(folder), profile_identifier=profile, offline=True)
        return [f"{issue.check.identifier}: {issue.message}" for issue in services.validate(settings).get_issues()]

    return check


def test_the_crate_is_a_workflow_run_crate(
    notebooks: Path, tmp_path: Path, validate: Callable[[Path], list[str]]
) -> None:
    target = str(notebooks / "saves_bundle.ipynb")
    folder = run(make_plan(find(target), target=target), out=tmp_path).path
    assert validate(folder) == []
    path = folder / "ro-crate-metadata.json"
    crate = json.loads(path.read_text())
    crate["@graph"] = [entity for entity in crate["@graph"] if entity["@id"] != "#run"]
    path.write_text(json.dumps(crate))
    assert any("mainEntity" in issue for issue in validate(folder))  # the check can fail


def test_a_sweeps_crate_is_a_process_run_crate(
    notebooks: Path, tmp_path: Path, validate: Callable[..., list[str]]
) -> None:
    target = str(notebooks / "result.ipynb")
    recipe = find(target)
    given = [{"value": 0.25}, {"value": 0.5}]
    trials = carry_out([(one, make_plan(recipe, target=target, given=one)) for one in given], out=tmp_path, workers=1)
    swept = Swept(
        recipe, "", "recall_at_1", trials, ranked(trials, "recall_at_1"), Prefixes(0, 0, 0), 1.0, 1, "kit sweep"
    )
    folder = write_report(swept, tmp_path).parent
    assert validate(folder, "process-run-crate-0.5") == []
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    measured = {one["value"] for one in crate["@graph"] if one["@type"] == "PropertyValue"}
    assert measured == {0.25, 0.5}
    assert len(history(tmp_path)) == 2  # the sweep's own crate is no run
    for one in crate["@graph"]:
        one.pop("instrument", None)
    (folder / "ro-crate-metadata.json").write_text(json.dumps(crate))
    assert validate(folder, "process-run-crate-0.5")  # the check can fail


def test_the_crate_says_what_went_in_and_came_out(notebooks: Path, tmp_path: Path) -> None:
    target = str(notebooks / "result.ipynb")
    folder = run(make_plan(find(target), target=target, given={"value": 0.3}), out=tmp_path).path
    graph = {entity["@id"]: entity for entity in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}
    assert graph["#value-value"]["value"] == 0.3
    assert graph["#measurement-recall_at_1"]["value"] == 0.3
    assert len(graph["result.json"]["sha256"]) == 64
    assert {part["@id"] for part in graph["./"]["hasPart"]} == {
        "executed.ipynb",
        "report.html",
        "result.json",
        "run.json",
    }
    assert graph["#wall_s"]["unitText"] == "s"

"""The card says what a stranger needs: how to open it, what it owes, and how far to believe it."""

import re

import pytest

from kit.adapters.card import card, homepage
from kit.manifest import Base, Manifest
from kit.parts.catalog import PARTS
from kit.result import Measurement, Result

EMOJI = PARTS["openmoji"]
MANIFEST = Manifest(
    kind="dual-encoder",
    name="Emoji by their names",
    bases=(Base("minilm-l6", "ab" * 32, "Apache-2.0", PARTS["minilm-l6"].attribution, "wheel"),),
    data=(Base("openmoji", "cd" * 32, EMOJI.licence, EMOJI.attribution, rows=1400, split="train"),),
    parameters={"lr": 3e-4, "name": "größer"},
    results=Result(
        {
            "recall_at_1": Measurement(0.171, "share", 311, 0.131, 0.212, baseline=0.0032, split="test"),
            "wall_s": Measurement(12.0, "s", 1, better="lower"),
        }
    ).to_json(),
)


def section(text, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\Z)", text, re.DOTALL | re.MULTILINE).group(1)


def test_attribution_and_licences_are_named():
    text = card(MANIFEST)
    assert "openmoji.org" in section(text, "Attribution")
    assert EMOJI.attribution in section(text, "Attribution")
    assert PARTS["minilm-l6"].attribution in section(text, "Attribution")
    assert section(text, "What it was trained on").startswith("- `openmoji` (CC-BY-SA-4.0;")
    assert "split train, 1400 rows" in section(text, "What it was trained on")
    assert "`minilm-l6` (Apache-2.0; content abababababababab)" in section(text, "What it was built on")


def test_share_alike_leads_the_front_matter():
    import yaml

    _, front, _ = card(MANIFEST).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "open_clip", "tags": ["clip", "multimodal-kit"], "license": "cc-by-sa-4.0",
    }  # fmt: skip


def test_every_number_comes_with_its_interval_n_and_baseline():
    rows = section(card(MANIFEST), "What it reached").splitlines()
    assert rows[0] == "| measurement | value | interval | n | baseline | split |"
    assert "| recall_at_1 | 0.171 share | 0.131 – 0.212 (95%) | 311 | 0.0032 | test |" in rows
    assert "| wall_s | 12 s |  | 1 |  |  |" in rows


def test_parameters_are_readable():
    assert '"name": "größer"' in section(card(MANIFEST), "Parameters")


def test_a_bundle_that_owes_and_measured_nothing():
    text = card(Manifest(kind="dual-encoder", name="x", bases=(Base("folder", "ab"),)))
    assert section(text, "Attribution") == "Nothing."
    assert section(text, "What it reached") == "Nothing was measured."
    assert "licence not stated" in text
    assert "license: other" in text


@pytest.mark.parametrize("says", ['create_model_and_transforms("local-dir:.")', 'kit.open_bundle("PATH").load()'])
def test_it_says_how_to_open_it(says):
    assert says in section(card(MANIFEST), "How to open it")


def test_the_projects_address_is_the_one_in_pyproject(root):
    import tomllib

    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert homepage() == urls["Homepage"]

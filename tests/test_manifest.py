"""A bundle's manifest: what it says, and what it notices."""

import hashlib
import json
from dataclasses import dataclass, replace

import pytest

from kit import manifest as manifests
from kit.errors import BundleError
from kit.manifest import FILE, SCHEMA, Base, Manifest, read, verify, write

MANIFEST = Manifest(
    kind="dual-encoder",
    name="Emoji by their names",
    bases=(
        Base("efficientnet-lite0", "ab", "Apache-2.0", "EfficientNet …"),
        Base("minilm-l6", "cd", "Apache-2.0", "x"),
    ),
    data=(Base("openmoji", "ef", "CC-BY-SA-4.0", "OpenMoji …", rows=1400, split="train"),),
    parameters={"lr": 3e-4, "sizes": (1, 2), "by_step": {9: 0.1, 10: 0.2}},
    parents={"mother": "12"},
)

# Written by kit 0.1.0: never to be changed, because such files are on people's disks.
OF_KIT_0_1 = """{
 "kind": "dual-encoder",
 "name": "Emoji",
 "bases": [
  {
   "source": "minilm-l6",
   "digest": "cd",
   "licence": "Apache-2.0",
   "attribution": "MiniLM",
   "origin": "",
   "rows": null,
   "split": ""
  }
 ],
 "data": [
  {
   "source": "openmoji",
   "digest": "ef",
   "licence": "CC-BY-SA-4.0",
   "attribution": "OpenMoji",
   "origin": "",
   "rows": 3,
   "split": "train"
  }
 ],
 "parameters": {
  "lr": 0.0003
 },
 "results": {},
 "parents": {},
 "versions": {
  "torch": "2.15.0"
 },
 "files": {},
 "kit": "0.1.0",
 "schema": 1,
 "digest": "d2c817e2b2d0df9ab8061337c0f9e45c9e265084faa64db23f290b764937fb06"
}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.safetensors").write_bytes(b"weights" * 100)
    (tmp_path / "README.md").write_text("# card", encoding="utf-8")
    write(tmp_path, MANIFEST)
    return tmp_path


def test_what_is_written_is_read(folder):
    found = verify(folder)
    assert sorted(found.files) == ["README.md", "weights/a.safetensors"]
    assert found.bases == MANIFEST.bases
    assert found.data == MANIFEST.data
    assert found.digest() == replace(MANIFEST, files=found.files).digest()


def test_licences_and_attributions_each_once():
    twice = replace(MANIFEST, data=(*MANIFEST.data, *MANIFEST.data))
    assert twice.attributions() == ("EfficientNet …", "x", "OpenMoji …")
    assert twice.licences() == ("Apache-2.0", "CC-BY-SA-4.0")


def test_everything_it_says_is_in_the_digest():
    changes = {"name": "b", "bases": (), "data": (), "parameters": {}, "parents": {}, "files": {"a": "b"}, "kit": "9"}
    digests = {replace(MANIFEST, **{name: value}).digest() for name, value in changes.items()}
    assert len(digests | {MANIFEST.digest()}) == len(changes) + 1


def test_all_damage_at_once(folder):
    (folder / "README.md").unlink()
    file = folder / "weights" / "a.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"X")
    with pytest.raises(BundleError) as caught:
        verify(folder)
    missing, differs = caught.value.faults
    assert missing.where.endswith("README.md")
    assert missing.what == "is missing"
    assert differs.where.endswith("weights/a.safetensors")
    assert "differs from what was saved" in differs.what


def test_any_flipped_bit_of_the_manifest_is_noticed_or_means_nothing(folder):
    saved, good = read(folder), (folder / FILE).read_bytes()
    noticed = 0
    for place in range(len(good)):
        (folder / FILE).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert read(folder) == saved
        except BundleError:
            noticed += 1
    assert noticed > 0.8 * len(good)  # the rest is white space


def test_a_manifest_of_a_newer_kit(folder):
    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    (folder / FILE).write_text(json.dumps({**values, "schema": SCHEMA + 1, "unknown": 1}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"(?s)schema 2 is newer than this kit reads \(1\).*pip install -U"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is no bundle's manifest"),
        ('{"schema": "1"}', "is no bundle's manifest"),
        ('{"schema": 1}', "does not hold what a manifest holds"),
        ('{"schema": 1, "bases": [3], "data": []}', "does not hold what a manifest holds"),
        (
            '{"schema": 1, "bases": [], "data": {"a": 1}, "kind": "x", "name": "x"}',
            "does not hold what a manifest holds",
        ),
        (json.dumps({**MANIFEST.to_json(), "digest": "0"}), "differs from what was saved"),
        (
            json.dumps({**MANIFEST.to_json(), "digest": MANIFEST.digest(), "colour": "red"}),
            "differs from what was saved",
        ),
    ],
)
def test_a_damaged_manifest_is_one_clear_error(folder, text, said):
    (folder / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=said):
        verify(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        read(tmp_path)


def test_one_of_kit_0_1_stays_readable(tmp_path):
    (tmp_path / FILE).write_text(OF_KIT_0_1, encoding="utf-8")
    found = read(tmp_path)
    assert found.digest() == json.loads(OF_KIT_0_1)["digest"]
    assert (found.kit, found.name, found.parameters) == ("0.1.0", "Emoji", {"lr": 0.0003})
    assert found.data == (Base("openmoji", "ef", "CC-BY-SA-4.0", "OpenMoji", rows=3, split="train"),)


def test_a_field_that_a_later_kit_adds_changes_no_older_bundle(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Later(Manifest):
        language: str = "en"

    @dataclass(frozen=True)
    class LaterBase(Base):
        revision: str = "main"

    (tmp_path / FILE).write_text(OF_KIT_0_1, encoding="utf-8")
    monkeypatch.setattr(manifests, "Manifest", Later)
    monkeypatch.setattr(manifests, "Base", LaterBase)
    found = read(tmp_path)
    assert (found.language, found.data[0].revision) == ("en", "main")
    assert found.digest() == json.loads(OF_KIT_0_1)["digest"]


def test_fields_of_a_later_kit_of_the_same_schema_are_passed_over(tmp_path):
    values = json.loads(OF_KIT_0_1)
    del values["digest"]
    values["language"] = values["bases"][0]["revision"] = values["saved"] = "x"
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (tmp_path / FILE).write_text(json.dumps({**values, "digest": digest}), encoding="utf-8")
    assert read(tmp_path).digest() == digest
    assert read(tmp_path).bases[0].source == "minilm-l6"


def test_a_changed_copy_has_a_digest_of_its_own(folder):
    found = read(folder)
    assert replace(found, name="b").digest() not in {found.digest(), MANIFEST.digest()}
    assert replace(found).digest() == found.digest()


def test_files_that_came_later_are_faults_and_dotfiles_are_not(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "model.py").write_text("x", encoding="utf-8")
    verify(folder)
    (folder / "added_tokens.json").write_text("{}", encoding="utf-8")
    (folder / "weights" / "model.py").write_text("x", encoding="utf-8")
    with pytest.raises(BundleError) as caught:
        verify(folder)
    assert [fault.where.rpartition(": ")[2] for fault in caught.value.faults] == [
        "added_tokens.json",
        "weights/model.py",
    ]
    assert all("is not part of what was saved" in fault.what for fault in caught.value.faults)

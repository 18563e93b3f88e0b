"""A Space's folder: whole or not at all, without secrets, and it runs where nothing of this machine is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from small_bundles import NAMES

from kit.adapters.bundle import Bundle
from kit.errors import BundleError
from kit.sharing import space_files
from kit.sharing.finding import read_vectors
from kit.sharing.shelf import read_shelf
from kit.sharing.space import ZERO_GPU, app_of, build_space, front_matter, requirements
from kit.sharing.space_check import check_space, push_space
from kit.sharing.space_files import folder_faults


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Bundle) -> Path:
    return build_space(tiny_clip, tmp_path_factory.mktemp("space") / "it")


def test_everything_is_in_it(space: Path, tiny_clip: Bundle) -> None:
    _, head, body = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    said = yaml.safe_load(head)
    assert said == front_matter(tiny_clip.manifest, tiny_clip.manifest.name)
    assert {"sdk", "sdk_version", "python_version", "app_file", "title", "license"} <= said.keys()
    assert body.startswith("\n# Tiny")
    assert len((space / "app.py").read_text().splitlines()) <= 18
    shelf = read_shelf(space / "pictures")
    assert sorted(shelf.name(place, "en") for place in range(12)) == sorted(NAMES)
    assert read_vectors(space / "pictures" / "vectors.safetensors").shape == (12, 12)
    assert (space / "kit" / "sharing" / "demo.css").is_file()
    assert not list(space.rglob("__pycache__"))


def test_requirements_are_pinned_and_fit_the_hardware() -> None:
    for hardware in ("cpu", "zero-gpu"):
        lines = [line for line in requirements(hardware).splitlines() if not line.startswith("--") and line != "spaces"]
        pins = {(one := Requirement(line)).name: str(one.specifier) for line in lines}
        assert all(pin.startswith("==") for pin in pins.values())
        assert {"torch", "torchvision", "gradio", "transformers", "open_clip_torch"} <= pins.keys()
    assert f"torch=={ZERO_GPU['torch']}" in requirements("zero-gpu").splitlines()
    assert ZERO_GPU["torch"] in SpecifierSet(">=2.8,<2.12")
    # kit's own lower bounds hold for what ZeroGPU runs.
    own = {
        (one := Requirement(line)).name: one.specifier for line in requires("multimodal-kit") or () if ";" not in line
    }
    assert all(pin in own[name] for name, pin in ZERO_GPU.items())
    assert "spaces" in requirements("zero-gpu").splitlines()
    assert "whl/cpu" in requirements("cpu")


def test_it_runs_as_hugging_face_runs_it(space: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in space.rglob("*")}
    found = check_space(space, fresh=False)
    assert set(found.endpoints) == {"/search", "/label"}
    assert "thing number" in found.endpoints["/search"]
    assert {path: path.stat().st_mtime_ns for path in space.rglob("*")} == before


# What kit depends on and no Space is given: its page must come up without them.
ABSENT = (
    "IPython", "anywidget", "ipykernel", "ipywidgets", "jupyterlab", "matplotlib", "nbclient", "nbformat", "papermill",
    "rocrate", "sqlalchemy",
)  # fmt: skip


def test_its_page_needs_nothing_but_its_requirements(tiny_clip: Bundle) -> None:
    named = {Requirement(line).name for line in requirements("cpu").splitlines() if not line.startswith("--")}
    assert not named & {*ABSENT}
    code = f"""
import sys
sys.modules |= dict.fromkeys({ABSENT!r})
from gradio_client import Client
from kit.sharing.demo import demo
served = demo({str(tiny_clip.folder)!r}, port=0)
print(Client(served.address, verbose=False).predict("a thing", "en", False, 3, api_name="/search"))
served.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "thing number" in done.stdout


def test_its_kit_is_its_own(space: Path) -> None:
    code = "import kit.sharing.demo as it; print(it.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(space)


def test_a_page_that_fails_is_told_with_its_error(space: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(space, tmp_path / "copy")
    (copy / "app.py").write_text("raise SystemExit('this page is broken')")
    with pytest.raises(BundleError, match=r"(?s)app.py: ended:.*this page is broken"):
        check_space(copy, fresh=False)
    with pytest.raises(BundleError, match="is no Space's folder"):
        check_space(tmp_path, fresh=False)
    (copy / "bundle" / "open_clip_config.json").write_text("{}")
    with pytest.raises(BundleError, match="differs from what was saved"):
        check_space(copy, fresh=False)


SECRETS = {
    "config.py": "token = 'hf_" + "a1B2" * 9 + "'",
    "keys.txt": "sk-" + "proj-" + "a1B2" * 12,
    "aws.json": '{"id": "AKIA' + "ABCDEFGH12345678" + '"}',
    "notes.md": "ghp_" + "a1B2" * 9,
    "cert.txt": "-----BEGIN " + "RSA PRIVATE KEY-----",
    ".env": "A=1",
    "study.db": "x",
    "where.txt": "/home/" + "somebody/pictures",
}


@pytest.mark.parametrize("kind", ["dual-encoder", "vision-language"])
@pytest.mark.parametrize("hardware", ["cpu", "zero-gpu"])
def test_zero_gpu_finds_a_function_of_its_own_before_the_page_is_launched(kind: str, hardware: str) -> None:
    done: list[Any] = []

    class Spaces:
        def GPU(self, task: Any) -> Any:  # noqa: N802 - as ZeroGPU's package calls it
            done.append("lent")
            return task

    class Page:
        def demo(self, *_: Any, wrap: Any = None, **options: Any) -> Any:
            if wrap is not None:
                wrap(lambda: None)
            done.append(options.get("device", "launched"))
            return self

        def wait(self) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kit.sharing.demo", Page())
        patch.setitem(sys.modules, "spaces", Spaces() if hardware == "zero-gpu" else None)
        patch.setenv("KIT_HOME", "")
        exec(compile(app_of(kind, hardware, "kit run it"), "app.py", "exec"), {"__file__": "/app/app.py"})
    cuda = kind == "vision-language" and hardware == "zero-gpu"
    assert done == (["lent"] if hardware == "zero-gpu" else []) + ["cuda" if cuda else "launched"]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_found_and_not_repeated(name: str, space: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(space, tmp_path / "copy")
    assert not folder_faults(copy)
    (copy / name).write_text(SECRETS[name])
    (fault,) = folder_faults(copy)
    assert name in fault.where
    assert SECRETS[name] not in str(fault) or len(SECRETS[name]) < 4
    with pytest.raises(BundleError):
        push_space(copy, "me/it", dry_run=True)


def test_too_large_and_links_are_refused(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(space, tmp_path / "copy")
    (copy / "link").symlink_to("/etc/hostname")
    assert "is a link" in str(folder_faults(copy))
    (copy / "link").unlink()
    assert "a repository takes 0" in str(folder_faults(copy, most=1000))


def test_nothing_is_left_of_what_failed(tiny_clip: Bundle, tiny_seeing: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="lies on this machine, not in a Space"):
        build_space(tiny_seeing, tmp_path / "it")
    with pytest.raises(BundleError, match="Did you mean 'zero-gpu'"):
        build_space(tiny_clip, tmp_path / "it", hardware="zerogpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space_files, "TEXT_BYTES", -1)
        patch.setattr("kit.sharing.space.folder_faults", lambda folder: [_fault()])
        with pytest.raises(BundleError, match="no way"):
            build_space(tiny_clip, tmp_path / "it")
    assert not list(tmp_path.iterdir())
    (tmp_path / "it").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        build_space(tiny_clip, tmp_path / "it")


def _fault() -> object:
    from kit.errors import Fault

    return Fault("it", "no way")


def test_a_dry_run_shows_what_would_go(space: Path, kit: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = kit("space", "push", space, "me/it", "--dry-run", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "app.py" in done.stdout
    assert "would be uploaded" in done.stdout
    assert kit("space", "push", space, "it", "--dry-run").returncode == 2


@pytest.mark.soak
@pytest.mark.weights
def test_a_real_one_installs_and_runs_in_an_environment_of_its_own(
    kit: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = kit("run", "stitch-clip", "--size", "smoke", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "runs").rglob("manifest.json")
    assert kit("space", "build", manifest.parent, "--out", tmp_path / "space").returncode == 0
    # In this process, for it takes as long as the network does.
    found = check_space(tmp_path / "space", screenshot=tmp_path / "it.png")
    print(f"its page answers after {found.start_s:.1f} s")
    assert {"/search", "/label"} <= found.endpoints.keys()
    assert found.screenshot is None or found.screenshot.stat().st_size > 10_000

"""The commands as people type them: output, exit codes, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from free_ports import free_port

import kit as package
from kit.parts.catalog import PARTS

Call = Callable[..., subprocess.CompletedProcess[str]]


def test_run_twice_report_and_exit_codes(kit: Call, recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(
        "notebook: {nb}/result.ipynb\nsizes: {smoke: {value: 0.1}, weak: {value: 0.2}}\n"
        "expect: {laptop: &claim {recall_at_1: {at_least: 0.4}}, weak: *claim}"
    )
    first = kit("run", path)
    assert first.returncode == 0, first.stderr
    assert "recall_at_1 ≥ 0.4" in first.stdout
    assert "PASS" in first.stdout
    again = kit("run", path)
    assert again.returncode == 0
    assert "Reused the run of" in again.stdout
    report = kit("report", "mine").stdout.strip()
    assert Path(report).is_file()
    assert str(Path(report).relative_to(tmp_path)) in again.stdout
    failed = kit("run", path, "--size", "weak")
    assert failed.returncode == 1
    assert "FAIL" in failed.stdout
    changed = kit("run", path, "-p", "value=0.3")
    assert changed.returncode == 0, "a recipe's claims say nothing of other parameters"
    assert "not claimed here" in changed.stdout
    assert kit("run", path, "--size", "smoke").returncode == 0


def test_reuse_imports_no_papermill(kit: Call, notebooks: Path, tmp_path: Path) -> None:
    assert kit("run", notebooks / "simple.ipynb").returncode == 0
    (tmp_path / "papermill.py").write_text("raise SystemExit('papermill was imported')")
    for name in ("nbconvert", "nbformat", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    done = kit("run", notebooks / "simple.ipynb", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Reused" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["run", "no-such"], "no such recipe"),
        (["run", "{nb}/nope.ipynb"], "no such notebook"),
        (["run", "{nb}/typed.ipynb", "-p", "epoch=3"], "Did you mean 'epochs'?"),
        (["run", "{nb}/typed.ipynb", "-p", "epochs=many"], "must be int, got 'many'"),
        (["run", "{nb}/typed.ipynb", "--size", "smok"], "Sizes: laptop."),
        (["run", "{nb}/no_parameters.ipynb", "-p", "a=1"], "no cell tagged 'parameters'"),
        (["run", "{nb}/simple.ipynb", "-p", "hf_token=abc"], "secret"),
        (["run", "{nb}/uses_part.ipynb", "-p", "data=folder:no/such"], "no such folder"),
        (["run", "{nb}/raises.ipynb"], "ZeroDivisionError"),
        (["run", "{nb}/simple.ipynb", "--out", "{nb}/simple.ipynb"], "is a file"),
        (["report", "nothing"], "no finished run"),
        (["report", "nothing"], "kit list shows what can be run"),
        (["report", "stitch-clpi"], "Did you mean 'stitch-clip'?"),
        (["report", "stitch-clip"], "Fix: kit run stitch-clip"),
        (["copy", "no-such"], "no such recipe"),
        (["parts", "pull", "opnmoji"], "Did you mean 'openmoji'?"),
        (["parts", "pull"], "no part was named"),
        (["bogus"], "No such command"),
    ],
)
def test_bad_input_ends_with_2_and_no_traceback(kit: Call, notebooks: Path, words: list[str], wanted: str) -> None:
    done = kit(*(word.replace("{nb}", str(notebooks)) for word in words))
    assert done.returncode == 2
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_parameters_and_inputs_are_reported_together(kit: Call, notebooks: Path) -> None:
    done = kit("run", notebooks / "uses_part.ipynb", "-p", "data=folder:nope", "-p", "dat=1")
    assert done.returncode == 2
    assert "no such folder" in done.stderr
    assert "Did you mean 'data'?" in done.stderr


def test_a_notebook_without_parameters_runs_as_it_is(kit: Call, notebooks: Path) -> None:
    done = kit("run", notebooks / "no_parameters.ipynb")
    assert done.returncode == 0
    assert "left no result" in done.stdout


def test_list_doctor_version_and_parts(kit: Call, tmp_path: Path) -> None:
    assert kit("--version").stdout.startswith("kit ")
    assert kit("list").returncode == 0
    doctor = kit("doctor", KIT_HOME=str(tmp_path / "home"))
    assert doctor.returncode == 0, doctor.stdout
    assert f"0 of {len(PARTS)} here" in doctor.stdout
    listing = kit("parts", "list", KIT_HOME=str(tmp_path / "home"))
    assert "CC-BY-SA-4.0" in listing.stdout
    (tmp_path / "file").write_text("")
    broken = kit("doctor", KIT_HOME=str(tmp_path / "file" / "home"))
    assert broken.returncode == 1
    assert "broken" in broken.stdout


def shared(tmp_path: Path, notebooks: Path) -> Path:
    """Copy the package as a wheel lays it out, with one recipe."""
    import shutil

    target = tmp_path / "site"
    shutil.copytree(Path(package.__file__).parent, target / "kit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("notebooks", "recipes"):
        (target / "kit" / "_share" / name).mkdir(parents=True)
    shutil.copy(notebooks / "result.ipynb", target / "kit" / "_share" / "notebooks")
    recipe = "# kept\nnotebook: notebooks/result.ipynb\nabout: It measures\nsizes: {smoke: {value: 0.3}}\n"
    (target / "kit" / "_share" / "recipes" / "measure.yaml").write_text(recipe)
    return target


def test_an_installed_kit_lists_runs_and_copies_its_recipes(kit: Call, tmp_path: Path, notebooks: Path) -> None:
    where = {"PYTHONPATH": str(shared(tmp_path, notebooks))}
    assert "It measures" in kit("list", **where).stdout
    assert kit("run", "measure", "--size", "smoke", **where).returncode == 0
    assert "Did you mean 'measure'?" in kit("run", "measur", **where).stderr
    copied = kit("copy", "measure", "--to", "mine", **where)
    assert copied.returncode == 0, copied.stderr
    assert "jupyter lab mine/result.ipynb" in copied.stdout
    assert (tmp_path / "mine" / "measure.yaml").read_text().splitlines()[:2] == ["# kept", "notebook: result.ipynb"]
    assert kit("run", "mine/measure.yaml", "--size", "smoke", **where).returncode == 0
    again = kit("copy", "measure", "--to", "mine", **where)
    assert again.returncode == 2
    assert again.stderr.count("is there already") == 2


def test_no_part_of_a_help_is_taken_for_markup(kit: Call) -> None:
    from rich.text import Text
    from typer.main import get_command

    from kit.cli.app import app

    commands, helps = [get_command(app)], list[str]()
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        helps += [told for one in command.params if (told := getattr(one, "help", None))]
    assert any("[default: " in told for told in helps)
    for told in helps:
        assert Text.from_markup(told).plain == told.replace(r"\[", "["), told
    assert "[default: beside the study]" in kit("study", "serve", "--help").stdout


def test_lab_opens_a_copy_and_overwrites_nothing(kit: Call, tmp_path: Path, notebooks: Path) -> None:
    where = {"PYTHONPATH": str(shared(tmp_path, notebooks))}
    code = "from pathlib import Path; from kit.cli.lab import notebooks_folder; print(notebooks_folder(Path.cwd()))"

    def folder() -> Path:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, **where},
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip())

    copy = folder() / "result.ipynb"
    assert copy == tmp_path / "kit-notebooks" / "result.ipynb"
    copy.write_text(json.dumps({"mine": True}))
    folder()
    assert json.loads(copy.read_text()) == {"mine": True}


def test_lab_listens_here_and_nowhere_else(tmp_path: Path, notebooks: Path) -> None:
    import contextlib
    import time
    import urllib.request

    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(shared(tmp_path, notebooks)), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    words = ["kit", "lab", "--no-browser", "--port", str(port)]
    code = f"import sys; sys.argv = {words}; from kit.cli import main; main()"
    lab = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and lab.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api") as answer:
                assert b"version" in answer.read()
                break
            time.sleep(0.2)
        else:
            pytest.fail("JupyterLab did not answer")
        addresses = {found.laddr.ip for found in psutil.Process(lab.pid).net_connections() if found.status == "LISTEN"}
        assert addresses == {"127.0.0.1"}
    finally:
        lab.terminate()
        lab.wait(60)

"""A pytest plugin: ``pytest --kit-notebooks`` runs recipes and parametrised notebooks as tests, on warm kernels.

Without ``--kit-notebooks`` it does nothing. With pytest-xdist (``-n auto``) all workers fork from one process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

LONGEST = 4000  # characters of outputs that a failure shows
_warm = ExitStack()


class FailedRunError(Exception):
    """A notebook that stopped, or whose claims fail; its text is the whole report."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("kit", "notebooks as tests")
    group.addoption("--kit-notebooks", action="store_true", help="Run recipes and parametrised notebooks as tests.")
    group.addoption("--kit-size", default="smoke", metavar="SIZE", help="The size of recipes to run (default: smoke).")


def pytest_configure(config: pytest.Config) -> None:
    """Start the preloaded process, once for all workers, and look for recipes where nothing was named."""
    if not config.getoption("kit_notebooks"):
        return
    if config.args_source != pytest.Config.ArgsSource.ARGS:
        folders = [config.rootpath / name for name in ("recipes", "notebooks")]
        config.args = [str(folder) for folder in folders if folder.is_dir()] or [str(config.rootpath)]
    if not hasattr(config, "workerinput"):
        from kit.runner.warm_owner import warm_kernels

        threads = {"OMP_NUM_THREADS": "1"} if getattr(config.option, "numprocesses", None) else {}
        _warm.enter_context(warm_kernels(env=threads))


def pytest_unconfigure() -> None:
    """End the preloaded process."""
    _warm.close()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect recipes, and notebooks with a cell tagged ``parameters`` that no recipe runs."""
    if not parent.config.getoption("kit_notebooks"):
        return None
    if file_path.suffix in {".yaml", ".yml"}:
        text = file_path.read_text(encoding="utf-8", errors="replace")
        wanted = re.search(r"^notebook:", text, re.MULTILINE) is not None
    else:
        wanted = file_path.suffix == ".ipynb" and _is_parametrised(file_path) and not _has_recipe(file_path)
    return NotebookFile.from_parent(parent, path=file_path) if wanted else None


def _is_parametrised(path: Path) -> bool:
    return '"parameters"' in path.read_text(encoding="utf-8", errors="replace")


def _has_recipe(path: Path) -> bool:
    recipes = [*path.parent.glob("*.y*ml"), *(path.parent.parent / "recipes").glob("*.y*ml")]
    line = re.compile(rf"^notebook:.*\b{re.escape(path.name)}\s*$", re.MULTILINE)
    return any(line.search(recipe.read_text(encoding="utf-8", errors="replace")) for recipe in recipes)


class NotebookFile(pytest.File):
    """A recipe or a notebook."""

    def collect(self) -> Iterator[pytest.Item]:
        """Give its one test: the chosen size, or a notebook's own values."""
        size = self.config.getoption("kit_size") if self.path.suffix != ".ipynb" else "laptop"
        yield NotebookItem.from_parent(self, name=str(size), size=size)


class NotebookItem(pytest.Item):
    """One run of a notebook."""

    def __init__(self, *, size: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.size = size

    def runtest(self) -> None:
        """Run it in a folder of its own.

        Raises:
            FailedRunError: it stopped, or one of its claims fails.
        """
        import shutil
        import tempfile

        from kit.errors import KitError, RunError
        from kit.runner.library import find
        from kit.runner.plan import make_plan
        from kit.runner.run import run

        out = Path(tempfile.mkdtemp(prefix="kit-test-"))
        try:
            plan = make_plan(find(str(self.path)), target=_short(self.path), size=self.size)
            done = run(plan, out=out)
        except RunError as error:
            kept = next(iter(out.glob("*/*.failed/executed.ipynb")), None)
            cell = failing_cell(kept) if kept else ""
            raise FailedRunError(f"{cell}{error}\n\nRun it again: {plan.command}") from error
        except KitError as error:
            raise FailedRunError(str(error)) from error
        finally:
            shutil.rmtree(out, ignore_errors=True)
        if not done.passed:
            said = [f"  {one.label}  {one.claim}, observed {one.observed}" for one in done.verdicts]
            raise FailedRunError("\n".join(["Not every claim holds:", *said, "", f"Run it again: {plan.command}"]))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show what a reader needs: the cell, its outputs, the command; no traceback through the runner."""
        if isinstance(excinfo.value, FailedRunError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Return what pytest writes above a failure."""
        return self.path, None, f"{_short(self.path)}, size {self.size}"


def failing_cell(executed: Path) -> str:
    """Return source and outputs of the cell in which a notebook stopped; empty when it stopped in none."""
    for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]:
        outputs = cell.get("outputs", [])
        told = cell["metadata"].get("papermill", {})
        stopped = told.get("exception") or told.get("status") == "running"
        if cell["cell_type"] == "code" and (stopped or any(one["output_type"] == "error" for one in outputs)):
            source = "\n".join(f"    {line}" for line in "".join(cell["source"]).splitlines())
            shown = "".join(map(_text, outputs))[-LONGEST:]
            return f"Source of the cell:\n\n{source}\n\nIts outputs:\n\n{shown.rstrip() or '(none)'}\n\n"
    return ""


def _text(output: dict[str, Any]) -> str:
    if output["output_type"] == "error":
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output["traceback"])) + "\n"
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "")) + "\n"


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

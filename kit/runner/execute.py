"""A notebook executed in process by papermill, on a kernel of its own, under a limit."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.result import MIME, Result
from kit.runner.kernel import kernel, kill_tree, why_cold
from kit.runner.notebook import Notebook
from kit.runner.warm import PATIENT
from kit.runner.watch import Cost, Watch

EXECUTED = "executed.ipynb"
CACHE_LOG = "cache.log"  # what was computed and what was kept; a sweep has a log of its own for all its trials
LIMIT_S = 4 * 3600.0
OnCell = Callable[[int, int, str], None]


class NotebookStoppedError(Exception):
    """A notebook did not reach its end.

    Args:
        what: What happened, in words: "raised ValueError: …".
        cell: Where, as people count: "cell 4 of 9, line 2"; empty when no cell was running.
        line: The source line that did it; may be empty.
        ename: The exception's class name; empty when none was raised.
        evalue: The exception's text.
    """

    def __init__(self, what: str, *, cell: str = "", line: str = "", ename: str = "", evalue: str = "") -> None:
        super().__init__(what)
        self.what, self.cell, self.line, self.ename, self.evalue = what, cell, line, ename, evalue


@dataclass
class _Progress:
    """Which code cell runs now; nbclient calls it at the start of each."""

    total: int
    on_cell: OnCell | None
    titles: Mapping[int, str]
    done: int = 0
    index: int | None = None

    def __call__(self, *, cell_index: int, **_: Any) -> None:
        if self.on_cell is not None:
            self.on_cell(self.done, self.total, self.titles.get(cell_index, ""))
        self.done += 1
        self.index = cell_index


def execute(
    notebook: Notebook,
    values: Mapping[str, Any],
    *,
    into: Path,
    cwd: Path,
    limit_s: float,
    limit_gib: float | None = None,
    on_cell: OnCell | None = None,
    env: Mapping[str, str] | None = None,
) -> Cost:
    """Run a notebook and leave ``executed.ipynb`` in the folder ``into``.

    Args:
        notebook: The notebook.
        values: Parameters to inject.
        into: The run's folder; the notebook sees it as ``KIT_RUN_DIR``.
        cwd: The kernel's working directory; that of this process stays as it is.
        limit_s: Seconds after which the kernel is killed.
        limit_gib: Memory of the kernel and its children above which it is killed, GiB; None for no such limit.
        on_cell: Called at the start of each code cell: how many are done, how many there are, the heading above it.
        env: More of the kernel's environment.

    Raises:
        NotebookStoppedError: it raised, called sys.exit, lost its kernel, or reached the limit.
    """
    import nbformat

    node = nbformat.reads(notebook.path.read_text(encoding="utf-8"), as_version=4)
    if [cell.source for cell in node.cells] != [cell["source"] for cell in notebook.cells]:
        raise NotebookStoppedError("was changed between its plan and its start")
    kernel_name = "python3" if notebook.language == "python" else node.metadata.get("kernelspec", {}).get("name", "")
    progress = _Progress(sum(map(_runs, node.cells)) + bool(values), on_cell, _titles(node, shift=bool(values)))
    log_path = into / "kernel.log"
    env = {"KIT_CACHE_LOG": str(into / CACHE_LOG), **PATIENT, **os.environ, "KIT_RUN_DIR": str(into), **(env or {})}
    with log_path.open("wb") as log, _started(notebook.language, kernel_name, cwd=cwd, env=env, log=log) as manager:
        pid = manager.provisioner.pid
        with Watch(pid, limit_s=limit_s, limit_gib=limit_gib, on_limit=lambda: kill_tree(pid)) as watch:
            try:
                _papermill(
                    node, into / EXECUTED, values, manager=manager, kernel_name=kernel_name,
                    language=notebook.language, progress=progress,
                )  # fmt: skip
            except Exception as error:
                raise _explained(error, manager, watch, into, progress) from error
            cost = dataclasses.replace(watch.cost(), cold=why_cold(manager))
    log_path.unlink()
    _refuse_exit(into / EXECUTED)
    if on_cell is not None:
        on_cell(progress.total, progress.total, "")
    return cost


def _papermill(
    node: Any,
    output: Path,
    values: Mapping[str, Any],
    *,
    manager: Any,
    kernel_name: str,
    language: str,
    progress: _Progress,
) -> None:
    import papermill

    # papermill logs what we say better ourselves, and has no setting for it.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    papermill.execute_notebook(
        node,
        str(output).replace("{", "{{").replace("}", "}}"),  # papermill fills in braces
        parameters=dict(values) or None,
        kernel_name=kernel_name,
        language=language,
        progress_bar=False,
        log_output=False,
        km=manager,
        coalesce_streams=True,
        on_cell_execute=progress,
    )


@contextmanager
def _started(language: str, kernel_name: str, **settings: Any) -> Iterator[Any]:
    """Give the kernel's manager; say so when there is no such kernel."""
    from jupyter_client.kernelspec import NoSuchKernel

    try:
        with kernel(language, kernel_name, **settings) as manager:
            yield manager
    except NoSuchKernel as error:
        what = f"needs the {language} kernel {error.name!r}, which is not installed here"
        raise NotebookStoppedError(what) from error


def _death(manager: Any) -> str:
    """Return how a kernel process ended, in words."""
    code = getattr(manager.provisioner.process, "returncode", None)
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name} ended it" + ("; the system does that when memory runs out" if name == "SIGKILL" else "")
    if code is not None:
        return f"the process ended with exit code {code}, as os._exit does"
    return "the process is gone; the system does that when memory runs out"


def _runs(cell: Any) -> bool:
    skipped = "skip-execution" in cell.metadata.get("tags", [])  # nbclient's own tag
    return cell.cell_type == "code" and bool(cell.source.strip()) and not skipped


def _titles(node: Any, *, shift: bool) -> dict[int, str]:
    """Return the last heading above each cell, by index in the executed notebook, which may hold one cell more."""
    titles, heading, extra = {}, "", 0
    for index, cell in enumerate(node.cells):
        if cell.cell_type == "markdown":
            found = re.search(r"^#{1,4}\s+(.+)$", cell.source, re.MULTILINE)
            heading = re.sub(r"[*`_]", "", found.group(1)).strip() if found else heading
        titles[index + extra] = heading
        if shift and "parameters" in cell.metadata.get("tags", []):
            extra, titles[index + 1] = 1, heading
    return titles


def _explained(error: Exception, manager: Any, watch: Watch, into: Path, progress: _Progress) -> NotebookStoppedError:
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    cell = _place(_cells(into / EXECUTED), progress.index)
    if watch.exceeded:
        return NotebookStoppedError(f"{watch.exceeded} and was stopped", cell=cell)
    if isinstance(error, PapermillExecutionError):
        return _raised(error, into)
    if isinstance(error, DeadKernelError):
        return NotebookStoppedError(f"its kernel died: {_death(manager)}{_tail(into)}", cell=cell)
    first = str(error).strip().splitlines()[:1]
    return NotebookStoppedError(f"could not be run: {type(error).__name__}: {''.join(first)}{_tail(into)}", cell=cell)


def _raised(error: Any, into: Path) -> NotebookStoppedError:
    if error.ename == "SystemExit":
        return NotebookStoppedError(
            f"called sys.exit({error.evalue})", cell=_place(_cells(into / EXECUTED), error.cell_index + 2)
        )
    number, line = _source_line(error.traceback)
    # papermill writes two marker cells into the failed notebook: one at the top, one before the cell that failed.
    place = _place(_cells(into / EXECUTED), error.cell_index + 2)
    place += f", line {number}" if number else ""
    what = f"raised {error.ename}: {error.evalue}" if error.evalue else f"raised {error.ename}"
    return NotebookStoppedError(what, cell=place, line=line, ename=error.ename, evalue=error.evalue)


def _source_line(traceback: list[str]) -> tuple[int, str]:
    """Return line number and source of the cell's own line: the first arrow in IPython's traceback."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback))
    # Of exceptions that caused one another the last was raised into the cell; the first ones' arrows are elsewhere.
    text = re.split(r"^(?:The above exception was the|During handling of the above).*$", text, flags=re.MULTILINE)[-1]
    found = re.search(r"^-+> *(\d+) (.*)$", text, re.MULTILINE)
    if found:
        return int(found.group(1)), found.group(2).strip()
    found = re.search(r"^\s*Cell In\s?\[\d+\], line (\d+)\n(.*)$", text, re.MULTILINE)  # a SyntaxError
    return (int(found.group(1)), found.group(2).strip()) if found else (0, "")


def _cells(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["cells"])
    except (OSError, ValueError, KeyError):  # it died before the first cell
        return []


def _place(cells: list[dict[str, Any]], index: int | None) -> str:
    """Return "cell 4 of 9", counted in the notebook as its author sees it."""
    if index is None or not 0 <= index < len(cells):
        return ""
    own = [
        not ({"injected-parameters", "papermill-error-cell-tag"} & set(cell["metadata"].get("tags", [])))
        for cell in cells
    ]
    return f"cell {sum(own[: index + 1])} of {sum(own)}"


def _tail(into: Path) -> str:
    try:
        text = (into / "kernel.log").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f"; it last wrote: {text.splitlines()[-1]}" if text else ""


def _refuse_exit(path: Path) -> None:
    """Refuse sys.exit(), which papermill takes for an early but good end: nobody knows what is missing then."""
    for index, cell in enumerate(cells := _cells(path)):
        if any(output.get("ename") == "SystemExit" for output in cell.get("outputs", [])):
            raise NotebookStoppedError("called sys.exit()", cell=_place(cells, index))


def read_result(executed: Path) -> Result | None:
    """Return the last Result among the outputs of an executed notebook; None when there is none.

    Raises:
        ResultError: there is one that cannot be read.
    """
    found = None
    for cell in _cells(executed):
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get(MIME, found)
    return None if found is None else Result.from_json(found, where=f"{executed.name}: result")

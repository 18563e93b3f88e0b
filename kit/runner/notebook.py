"""A notebook read as plain JSON: its cells, its language, and the parameters it declares."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import RecipeError

KINDS = frozenset({"int", "float", "str", "bool", "list", "tuple", "dict"})


@dataclass(frozen=True)
class Parameter:
    """One name that the cell tagged ``parameters`` assigns.

    Args:
        name: The name.
        kind: "int", "float", "str", "bool", "list", "tuple" or "dict"; "any" where the cell does not tell.
        default: The literal assigned there; None where it is not a literal (see ``literal``).
        literal: Whether ``default`` is what the cell assigns.
        optional: Whether None is a good value: ``int | None``, or a default of None.
        help: The comment behind the assignment.
    """

    name: str
    kind: str
    default: Any
    literal: bool = True
    optional: bool = False
    help: str = ""


@dataclass(frozen=True)
class Notebook:
    """A notebook as it lies on the disk.

    Args:
        path: The file.
        cells: Its cells, as in the JSON, with ``source`` as one string.
        language: The kernel's language, "python" where the file does not say.
        parameters: By name; None where nothing is known of them: another language than Python.
        tagged: Whether there is a cell tagged ``parameters``.
    """

    path: Path
    cells: tuple[Mapping[str, Any], ...]
    language: str
    parameters: Mapping[str, Parameter] | None
    tagged: bool

    def defaults(self) -> dict[str, Any]:
        """Return the literal defaults by name."""
        return {name: found.default for name, found in (self.parameters or {}).items() if found.literal}


def read_notebook(path: Path) -> Notebook:
    """Return the notebook at ``path``, read without nbformat (whose import alone costs over a second).

    Raises:
        RecipeError: no such file, no JSON, or no notebook of format 4.
    """
    document = _document(path)
    cells = tuple({**cell, "source": _joined(cell.get("source", ""))} for cell in document["cells"])
    metadata = document.get("metadata", {})
    language = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language")
    language = str(language or "python").lower()
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    parameters: Mapping[str, Parameter] | None = {}
    if language != "python":
        parameters = None
    elif tagged:
        parameters = declared(tagged[0]["source"], where=str(path))
    return Notebook(path, cells, language, parameters, bool(tagged))


def _document(path: Path) -> dict[str, Any]:
    fix = "open it in Jupyter and save it again, or restore it"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError.of(str(path), "no such notebook") from error
    except IsADirectoryError as error:
        raise RecipeError.of(str(path), "is a folder, not a notebook") from error
    except OSError as error:
        raise RecipeError.of(str(path), f"cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecipeError.of(str(path), f"is not a notebook: {error}", fix) from error
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise RecipeError.of(str(path), "is not a notebook of format 4: it holds no list of cells", fix)
    if not all(isinstance(cell, dict) for cell in document["cells"]):
        raise RecipeError.of(str(path), "is not a notebook: one of its cells is no JSON object", fix)
    return document


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def declared(source: str, *, where: str) -> dict[str, Parameter]:
    """Return the parameters that a ``parameters`` cell assigns, by name, in its order.

    papermill's own inspection reads one line at a time with a regular expression and needs papermill's import;
    Python's parser reads every assignment.

    Raises:
        RecipeError: the cell is not Python.

    >>> declared("epochs: int = 20  # passes over the data", where="n.ipynb")["epochs"].kind
    'int'
    """
    try:
        tree = ast.parse(_without_magics(source))
    except SyntaxError as error:
        raise RecipeError.of(
            f"{where}: parameters cell, line {error.lineno}", f"is not Python: {error.msg}", "correct it there"
        ) from error
    lines = source.splitlines()
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            targets, annotation, value = [statement.target], ast.unparse(statement.annotation), statement.value
        elif isinstance(statement, ast.Assign):
            targets = [target for target in statement.targets if isinstance(target, ast.Name)]
            annotation, value = "", statement.value
        else:
            continue
        comment = _comment(lines[(statement.end_lineno or 1) - 1][statement.end_col_offset or 0 :])
        for target in targets:
            found[target.id] = _parameter(target.id, annotation, value, comment)
    return found


def _without_magics(source: str) -> str:
    return re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE)


def _comment(rest: str) -> str:
    return rest.partition("#")[2].strip()


def _parameter(name: str, annotation: str, value: ast.expr, comment: str) -> Parameter:
    try:
        default, literal = ast.literal_eval(value), True
    except ValueError:
        default, literal = None, False
    names = [
        part.strip("'\" ") for part in re.sub(r"^(?:typing\.)?Optional\[(.*)\]$", r"\1 | None", annotation).split("|")
    ]
    bases = {part.split("[")[0].removeprefix("typing.").lower() for part in names} - {"none", ""}
    optional = "None" in names or (literal and default is None)
    if not annotation and literal and default is not None:
        bases = {type(default).__name__}
    if bases == {"int", "float"}:
        bases = {"float"}
    kind = bases.pop() if len(bases) == 1 else "any"
    return Parameter(name, kind if kind in KINDS else "any", default, literal, optional, comment)


def has_changed(notebook: Notebook) -> bool:
    """Return whether the file's cells are others than those that were read."""
    try:
        return [cell["source"] for cell in read_notebook(notebook.path).cells] != [
            cell["source"] for cell in notebook.cells
        ]
    except RecipeError:  # half written, or gone
        return True

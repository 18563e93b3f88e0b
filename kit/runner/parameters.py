"""Values for a notebook's parameters: checked against their declared types, and read from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kit.errors import Fault, RecipeError, did_you_mean, listed, raise_faults
from kit.runner.notebook import Notebook, Parameter

# Words of the field that end like secrets and are none.
_SPECIAL_TOKENS = {"bos", "eos", "pad", "unk", "sep", "cls", "mask", "image", "special", "start", "end"}
_SECRET = re.compile(
    r"(?:^|_)(token|password|passwd|secret|credentials?|api_?key|access_key|private_key)$", re.IGNORECASE
)


def looks_secret(name: str) -> bool:
    """Return whether a parameter of this name would hold a secret.

    >>> [looks_secret(name) for name in ("hf_token", "api_key", "picture_tokens", "eos_token")]
    [True, True, False, False]
    """
    found = _SECRET.search(name)
    return bool(found) and name[: found.start()].lower() not in _SPECIAL_TOKENS if found else False


def value_faults(notebook: Notebook, values: Mapping[str, Any], *, where: str, shown: str) -> list[Fault]:
    """Return what is wrong with ``values`` as parameters of ``notebook``.

    Args:
        notebook: The notebook.
        values: Parameter values by name.
        where: Their place: ``recipes/stitch.yaml: sizes.laptop``.
        shown: The notebook's path as the user wrote it.
    """
    faults = []
    for name, value in values.items():
        place = f"{where}{name}" if where.endswith(" ") else f"{where}.{name}"
        if not isinstance(name, str) or not name.isidentifier():
            faults.append(Fault(place, "a parameter's name must be an identifier"))
        elif looks_secret(name):
            faults.append(_secret(place, name))
        elif notebook.parameters is not None and name not in notebook.parameters:
            faults.append(_unknown(place, name, notebook, shown))
        elif notebook.parameters is not None:
            faults += _type_faults(place, notebook.parameters[name], value)
    return faults


def _secret(place: str, name: str) -> Fault:
    return Fault(
        place,
        "looks like a secret, and parameters are written into the executed notebook and its report",
        f"set it in the environment, and read os.environ[{name.upper()!r}] in the notebook",
    )


def _unknown(place: str, name: str, notebook: Notebook, shown: str) -> Fault:
    if not notebook.tagged:
        return Fault(
            place,
            f"{shown} has no cell tagged 'parameters', so nothing can be passed to it",
            "tag the cell that sets its values with 'parameters', or run it without any",
        )
    names = notebook.parameters or {}
    return Fault(
        place,
        f"not a parameter of {shown}.{did_you_mean(name, names)}",
        "rename it here, or declare it in the cell tagged 'parameters'.",
        f"Declared: {listed(names)}." if names else "Declared: nothing.",
    )


def _type_faults(place: str, parameter: Parameter, value: Any) -> list[Fault]:
    if fits(parameter, value):
        return []
    wanted = f"must be {parameter.kind}{' or null' if parameter.optional else ''}, got {value!r}"
    if isinstance(value, str):
        wanted += " (a string)"
    fix = ""
    number = _as_float(value) if isinstance(value, str) and parameter.kind in {"int", "float"} else None
    if number is not None:
        # YAML 1.1 reads 3e-4 as a string: its numbers need a dot. github.com/yaml/pyyaml/issues/173
        fix = f"write {_yaml_number(value, parameter.kind)}, without quotes"
    return [Fault(place, wanted, fix)]


def _yaml_number(text: str, kind: str) -> str:
    if kind == "int":
        return str(int(float(text)))
    mantissa, mark, exponent = text.strip().lower().partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}{mark}{exponent if exponent[:1] in {'-', '+', ''} else '+' + exponent}"


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def fits(parameter: Parameter, value: Any) -> bool:
    """Return whether ``value`` is of the parameter's declared type; ints are good floats, bools no numbers."""
    if parameter.kind == "any" or (value is None and parameter.optional):
        return True
    if isinstance(value, bool) or parameter.kind == "bool":
        return isinstance(value, bool) and parameter.kind == "bool"
    types: dict[str, type | tuple[type, ...]] = {
        "int": int, "float": (int, float), "str": str, "list": (list, tuple), "tuple": (list, tuple), "dict": dict,
    }  # fmt: skip
    return isinstance(value, types[parameter.kind])


def from_command_line(pairs: Sequence[str], notebook: Notebook) -> dict[str, Any]:
    """Return ``key=value`` pairs as parameter values, read kindly: towards the declared type where there is one.

    Raises:
        RecipeError: a pair without ``=``, a name given twice, or a value that is no YAML; all faults at once.
    """
    values: dict[str, Any] = {}
    faults = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        place = f"-p {pair}"
        if not equals or not name:
            faults.append(Fault(place, "is not of the form name=value", "write -p epochs=3"))
        elif name in values:
            faults.append(Fault(place, f"'{name}' is given twice", "give it once"))
        else:
            parameter = (notebook.parameters or {}).get(name, Parameter(name, "any", None))
            try:
                values[name] = _read(text, parameter)
            except ValueError as error:
                faults.append(Fault(place, str(error), "quote it, or write it as YAML"))
    raise_faults(faults, RecipeError)
    return values


def _read(text: str, parameter: Parameter) -> Any:
    import yaml

    if parameter.kind == "str" and not (parameter.optional and text in {"null", "None"}):
        return text
    number = _as_float(text)
    if parameter.kind == "float" and number is not None:
        return number
    if parameter.kind == "int" and number is not None and number.is_integer():
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else int(number)
    if text == "None" and parameter.optional:
        return None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot be read: {str(error).splitlines()[0]}") from error

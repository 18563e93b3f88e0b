"""One grammar for every source string, so that recipes, notebooks and commands name things alike.

Data: a part (``openmoji``), a mix of parts (``instruct``), ``folder:PATH``, ``hub:ORG/NAME[@REVISION]``.
Models: a part (``smollm2-135m``), ``stitch:IMAGE+TEXT``, ``open_clip:MODEL/PRETRAINED``, ``local-dir:PATH``,
``bundle:PATH``, ``hf:ORG/NAME[@REVISION]``, ``hf-bundle:ORG/NAME[@REVISION]`` (a bundle that was pushed).
A stitch with a text tower is a dual encoder, one with a language model a
vision-language model; the sides of the latter may be ``open_clip:``, ``hf:`` and ``local-dir:`` themselves.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kit.errors import DataError, Fault, KitError, ModelError, did_you_mean, listed
from kit.parts.catalog import PARTS, Kind

# Which part can be which tower; a stitch takes an image tower, and a text or language tower.
TOWERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"image": ("efficientnet-lite0",), "text": ("minilm-l6",), "language": ("smollm2-135m",)}
)
# Data sets that kit builds from parts, in ``kit.data``.
MIXES: Mapping[str, tuple[str, ...]] = MappingProxyType({"instruct": ("openmoji", "easy-vqa")})
# Which sources can be a side of a stitch, beside parts.
SIDES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"image": ("open_clip", "hf", "local-dir"), "language": ("hf", "local-dir")}
)
FORMS: Mapping[Kind, Mapping[str, str]] = MappingProxyType(
    {
        "data": MappingProxyType({"folder": "folder:PATH", "hub": "hub:ORG/NAME[@REVISION]"}),
        "model": MappingProxyType(
            {
                "stitch": "stitch:IMAGE+TEXT",
                "open_clip": "open_clip:MODEL/PRETRAINED",
                "local-dir": "local-dir:PATH",
                "bundle": "bundle:PATH",
                "hf": "hf:ORG/NAME[@REVISION]",
                "hf-bundle": "hf-bundle:ORG/NAME[@REVISION]",
            }
        ),
    }
)
_SCHEMES = frozenset(scheme for forms in FORMS.values() for scheme in forms)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"[\w./-]+", re.ASCII)
_WEIGHT_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".safetensors", ".ckpt"})


@dataclass(frozen=True)
class Reference:
    """A source string, understood.

    Args:
        text: The string as it was given.
        scheme: What stands before the colon; "part" for a bare part's name.
        kind: "data" or "model".
        body: What stands after the colon, without a revision.
        parts: Parts of the catalogue that it needs.
        path: The file or folder that it names, absolute; None where it names none.
        revision: Branch, tag or commit on the Hub; None for the default branch.
        sides: Of a stitch: the image tower, and the text or language tower.
    """

    text: str
    scheme: str
    kind: Kind
    body: str
    parts: tuple[str, ...] = ()
    path: Path | None = None
    revision: str | None = None
    sides: tuple[Reference, ...] = ()

    def absolute(self) -> Reference:
        """Return the same reference with its path written out, so that it holds in any working directory.

        >>> parse("openmoji", kind="data").absolute().text
        'openmoji'
        """
        if any(side.absolute() != side for side in self.sides):
            sides = tuple(side.absolute() for side in self.sides)
            body = "+".join(side.text for side in sides)
            return dataclasses.replace(self, text=f"stitch:{body}", body=body, sides=sides)
        if self.path is None:
            return self
        body = f"{self.body.partition('/')[0]}/{self.path}" if self.scheme == "open_clip" else str(self.path)
        return dataclasses.replace(self, text=f"{self.scheme}:{body}", body=body)


def looks_like_reference(text: object) -> bool:
    """Tell whether a value is a string in this grammar: a known scheme, or a part's name.

    >>> looks_like_reference("hub:nlphuji/flickr30k"), looks_like_reference("openmoji"), looks_like_reference("adam")
    (True, True, False)
    """
    return isinstance(text, str) and (
        (text in PARTS and PARTS[text].kind in FORMS)
        or text in MIXES
        or (":" in text and text.partition(":")[0] in _SCHEMES)
    )


def parse(text: str, *, kind: Kind, base: Path | None = None) -> Reference:
    """Return what a source string means, checked as far as it can be without a network.

    Args:
        text: The source string.
        kind: What is wanted, "data" or "model".
        base: The folder that relative paths start from; the working directory by default.

    Raises:
        DataError: data are wanted and this names none; says what is allowed and the nearest.
        ModelError: the same for a model.
    """
    if not isinstance(text, str) or not text.strip():
        raise _error(kind, f"{kind} {text!r}", f"must be a source string, got {text!r}")
    text = text.strip()
    scheme, colon, body = text.partition(":")
    if not colon:
        return _bare(text, kind)
    if scheme not in FORMS[kind]:
        other: Kind = "model" if kind == "data" else "data"
        what = (
            f"{scheme!r} names {_a(other)}, not {_a(kind)}" if scheme in FORMS[other] else f"unknown scheme {scheme!r}"
        )
        raise _error(kind, text, f"{what}.{did_you_mean(scheme, FORMS[kind])}")
    if not body:
        raise _error(kind, text, "nothing stands after the colon", f"write {FORMS[kind][scheme]}")
    if scheme == "stitch":
        return _stitch(text, body, base)
    if scheme == "open_clip":
        return _open_clip(text, body, base)
    if scheme in {"hf", "hf-bundle", "hub"}:
        return _repository(text, scheme, body, kind)
    return Reference(text, scheme, kind, body, path=_folder(text, body, kind, base))


def _error(kind: Kind, where: str, what: str, fix: str = "", allowed: str = "") -> KitError:
    """Return the kind's own error, with everything that is allowed unless told otherwise."""
    allowed = allowed or f"Allowed: {', '.join([*sorted(_names(kind)), *FORMS[kind].values()])}."
    return (DataError if kind == "data" else ModelError)(Fault(where, what, fix, allowed))


def _names(kind: Kind) -> list[str]:
    """Return what stands without a colon: parts and, for data, mixes of them."""
    return [name for name, part in PARTS.items() if part.kind == kind] + [name for name in MIXES if kind == "data"]


def _a(kind: str) -> str:
    return {"data": "data", "model": "a model", "program": "a program"}[kind]


def _bare(text: str, kind: Kind) -> Reference:
    part = PARTS.get(text)
    if part is not None and part.kind == kind:
        return Reference(text, "part", kind, text, parts=(text,))
    if text in MIXES and kind == "data":
        return Reference(text, "part", kind, text, parts=MIXES[text])
    if part is not None:
        raise _error(kind, text, f"is {_a(part.kind)}, and {_a(kind)} is wanted here")
    fix = f"write folder:{text}" if kind == "data" and "/" in text else ""
    near = did_you_mean(text, _names(kind))
    raise _error(kind, text, f"no part has this name, and no scheme stands before a colon.{near}", fix)


def _stitch(text: str, body: str, base: Path | None) -> Reference:
    names = _sides(body)
    if len(names) != 2:
        raise _error("model", text, f"a stitch takes two towers, got {len(names)}", "write stitch:IMAGE+TEXT")
    found: list[Reference] = []
    faults: list[Fault] = []
    for name, roles in zip(names, (("image",), ("text", "language")), strict=True):
        try:
            found.append(_side(name, roles, base))
        except KitError as error:
            faults += [dataclasses.replace(fault, where=text) for fault in error.faults]
    if not faults and found[1].body in TOWERS["text"] and found[0].scheme != "part":
        what = f"a text tower is stitched with a packaged image tower only, not with {found[0].text!r}"
        faults.append(Fault(text, what, f"take {listed(TOWERS['image'])}, or a language model as the second"))
    if faults:
        raise ModelError(faults)
    parts = tuple(part for side in found for part in side.parts)
    return Reference(text, "stitch", "model", body, parts=parts, sides=tuple(found))


def _sides(body: str) -> list[str]:
    """Return what stands around the plus; of several (paths may hold some) the one before a source string."""
    pluses = [place for place, sign in enumerate(body) if sign == "+"]
    if len(pluses) > 1:
        pluses = [place for place in pluses if looks_like_reference(body[place + 1 :].strip())]
    if len(pluses) != 1:
        return body.split("+")
    return [body[: pluses[0]].strip(), body[pluses[0] + 1 :].strip()]


def _side(name: str, roles: tuple[str, ...], base: Path | None) -> Reference:
    """Return one side of a stitch, which may be a tower of these roles."""
    towers = [tower for role in roles for tower in TOWERS[role]]
    schemes = [scheme for role in roles for scheme in SIDES.get(role, ())]
    if name in towers or name.partition(":")[0] in schemes:
        return parse(name, kind="model", base=base)
    own = [role for role, members in TOWERS.items() if name in members]
    known = f"{name!r} is {'an' if own == ['image'] else 'a'} {own[0]} tower" if own else f"no tower {name!r}"
    what = f"{known}; the {'first' if 'image' in roles else 'second'} must be {' or '.join(roles)}"
    allowed = f"{roles[-1].title()} towers: {', '.join([*towers, *(FORMS['model'][scheme] for scheme in schemes)])}."
    raise ModelError(Fault(name, f"{what}.{did_you_mean(name, towers)}", allowed=allowed))


def _open_clip(text: str, body: str, base: Path | None) -> Reference:
    model, slash, pretrained = body.partition("/")
    if not (model and slash and pretrained):
        raise _error("model", text, "needs a model and its weights", "write open_clip:MODEL/PRETRAINED")
    known = _open_clip_models()
    if known and model not in known:
        raise _error("model", text, f"open_clip has no model {model!r}.{did_you_mean(model, known)}")
    path = _resolve(pretrained, base)
    if path.is_file():
        return Reference(text, "open_clip", "model", body, path=path)
    if "/" in pretrained or path.suffix in _WEIGHT_SUFFIXES:
        what = f"no such file: {path}.{_near_path(path)}"
        raise _error("model", text, what, "name a tag that open_clip lists for the model, or a checkpoint's path")
    return Reference(text, "open_clip", "model", body)


def _open_clip_models() -> frozenset[str]:
    """Return open_clip's model names from the files it ships, without importing it (5 s); empty where it is missing."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return frozenset()
    return frozenset(path.stem for path in (Path(spec.origin).parent / "model_configs").glob("*.json"))


def _repository(text: str, scheme: str, body: str, kind: Kind) -> Reference:
    name, at, revision = body.partition("@")
    if not _REPOSITORY.fullmatch(name):
        raise _error(kind, text, f"{name!r} is no repository's name", f"write {FORMS[kind][scheme]}")
    if at and not _REVISION.fullmatch(revision):
        raise _error(kind, text, f"{revision!r} is no revision", "name a branch, a tag or a commit after the @")
    return Reference(text, scheme, kind, name, revision=revision or None)


def _resolve(path: str, base: Path | None) -> Path:
    return Path(os.path.normpath((base or Path.cwd()).absolute() / Path(path).expanduser()))


def _folder(text: str, body: str, kind: Kind, base: Path | None) -> Path:
    path = _resolve(body, base)
    if path.is_dir():
        return path
    if path.exists():
        raise _error(kind, text, f"{path} is a file; a folder is wanted", f"name the folder: {path.parent}")
    raise _error(
        kind, text, f"no such folder: {path}.{_near_path(path)}", "give a path that exists, absolute or from here"
    )


def _near_path(path: Path) -> str:
    """Return the nearest name beside a missing path, as ``did_you_mean`` words it."""
    try:
        return did_you_mean(
            path.name, [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
        )
    except OSError:
        return ""

"""What bundles answered, kept beside the study that names them: each is asked once, and the answers stay."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.errors import BundleError, Fault
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item
from kit.manifest import read as read_manifest

SCHEMA = 1
TOKENS = 64  # of an answer, where the study does not say


@dataclass(frozen=True)
class Asked:
    """A condition whose outputs come from a bundle.

    Args:
        condition: Its name.
        bundle: The bundle's folder.
        kept: The file that its answers are kept in; one for all conditions of a study.
        pictures: For a dual encoder: the folder of which it finds one picture for each prompt.
        tokens: For a vision-language model: at most so many in an answer.
        answers: Those that are kept, by what was asked (``key_of``).
    """

    condition: str
    bundle: Path
    kept: Path
    pictures: Path | None = None
    tokens: int = TOKENS
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, Any]:
        """What answers depend on besides the bundle and what is asked."""
        return {"pictures": self.pictures.name if self.pictures else None, "tokens": self.tokens}

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """Return the items that it has not answered."""
        return [item for item in items if key_of(item) not in self.answers]

    def keep(self, items: Sequence[Item], answers: Sequence[Mapping[str, str]]) -> None:
        """Keep what was answered, beside what is kept already; the file is written whole.

        Args:
            items: What was asked.
            answers: For each the value of an output, ``{"text": …}`` or ``{"picture": path from the study}``.

        Raises:
            StudyError: the file cannot be read or written.
            BundleError: the bundle has no manifest.
        """
        made = _read(self.kept)
        known = made.get(self.condition, {}).get("answers", {})
        new = {key_of(item): dict(answer) for item, answer in zip(items, answers, strict=True)}
        made[self.condition] = {
            "bundle": read_manifest(self.bundle).digest(), "how": self.how, "answers": {**known, **new}
        }  # fmt: skip
        text = json.dumps({"schema": SCHEMA, "made": made}, ensure_ascii=False, indent=1) + "\n"
        part = self.kept.with_name(f".{self.kept.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(self.kept)
        except OSError as error:
            raise StudyError.of(str(self.kept), f"cannot be written: {error.strerror}", "make it writable") from error


def key_of(item: Item) -> str:
    """Return what stands for that which an item asks: a SHA-256 of its prompt, its picture and its sound."""
    picture = item.picture.digest() if item.picture is not None else None
    audio = hashlib.sha256(item.audio.read_bytes()).hexdigest() if item.audio is not None else None
    return hashlib.sha256(json.dumps([item.prompt, picture, audio]).encode()).hexdigest()


def with_kept(asked: Asked, where: str) -> tuple[Asked, list[Fault]]:
    """Return a condition with its kept answers, and what is wrong with them: another bundle, or another way to ask.

    A bundle that is not there any more is no fault: its answers are kept.

    Args:
        asked: The condition.
        where: Its place in the study.

    Raises:
        StudyError: the file cannot be read.
    """
    made = _read(asked.kept).get(asked.condition)
    fix = f"restore it, or delete {asked.kept} to let it answer anew (before the first vote)"
    faults = []
    try:
        digest = read_manifest(asked.bundle).digest()
    except BundleError as error:
        if made is None or asked.bundle.exists():
            faults += [Fault(f"{where}: {one.where}", one.what, one.fix) for one in error.faults]
        digest = made["bundle"] if made else ""
    if made and made["bundle"] != digest:
        what = f"is another bundle than the one that answered (was {made['bundle'][:12]}, is {digest[:12]})"
        faults.append(Fault(where, what, fix))
    if made and made["how"] != asked.how:
        faults.append(Fault(where, f"was asked with {made['how']}, and the study says {asked.how}", fix))
    kept = made["answers"] if made else {}
    return Asked(asked.condition, asked.bundle, asked.kept, asked.pictures, asked.tokens, kept), faults


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] > SCHEMA:
            raise StudyError.of(str(path), "is from a newer kit", "pip install -U multimodal-kit")
        made = {name: {key: one[key] for key in ("bundle", "how", "answers")} for name, one in values["made"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "restore it, or delete it to let the bundles answer anew"
        raise StudyError.of(str(path), f"cannot be read: {error}", fix) from error
    return made

"""Bundles that a study names answer its items, each once; what they said is kept beside the study."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import Fault, raise_faults
from kit.humaneval.answered import Asked
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item
from kit.humaneval.protocol import asked_of, read_study
from kit.humaneval.study import Study

if TYPE_CHECKING:
    from kit.models.dual_encoder import ClipEncoder
    from kit.models.vision_language import VisionLanguage

NOTHING = "(no answer)"  # what a model said that said nothing
ENDINGS = {".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp"}


def answered_study(path: Path) -> Study:
    """Return the study of a YAML file, whose bundles are asked first what they have not answered yet.

    Raises:
        StudyError: anything wrong in it; all faults at once. Items that a bundle cannot be asked.
        BundleError: a bundle that is damaged.
    """
    items, conditions = asked_of(path)
    for one in conditions:
        if missing := one.missing(items):
            print(f"{one.condition}: {one.bundle} answers {len(missing)} items, once …", file=sys.stderr, flush=True)
            one.keep(missing, _answers(one, missing, path.parent))
    return read_study(path)


def _answers(asked: Asked, items: Sequence[Item], folder: Path) -> list[Mapping[str, str]]:
    """Return what a bundle says to items."""
    from kit.adapters.bundle import open_bundle
    from kit.models.dual_encoder import ClipEncoder

    faults = [Fault(f"items.{item.id}", "asks with a sound, and bundles hear nothing") for item in items if item.audio]
    raise_faults(faults, StudyError)
    model = open_bundle(asked.bundle).load()
    if isinstance(model, ClipEncoder):
        return _found(model, asked, items, folder)
    return _said(model, asked, items)


def _said(model: VisionLanguage, asked: Asked, items: Sequence[Item]) -> list[Mapping[str, str]]:
    from kit.models.chat import answer

    pictures, prompts = [item.picture for item in items], [item.prompt for item in items]
    return [{"text": text or NOTHING} for text in answer(model, pictures, prompts, max_new_tokens=asked.tokens)]


def _found(model: ClipEncoder, asked: Asked, items: Sequence[Item], folder: Path) -> list[Mapping[str, str]]:
    """Return, for each prompt, the picture of the study's folder of pictures whose vector is nearest."""
    from kit.data.picture import Picture
    from kit.models.encode import PrefixEncoder, Prefixes, embed

    where = f"outputs.{asked.condition}"
    if asked.pictures is None:
        what = f"{asked.bundle} finds pictures, and the study does not say among which"
        raise StudyError.of(where, what, f"write {asked.condition}: {{bundle: {asked.bundle.name}, pictures: FOLDER}}")
    files = sorted(file for file in asked.pictures.rglob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        raise StudyError.of(where, f"{asked.pictures} has no pictures", f"put some there: {', '.join(sorted(ENDINGS))}")
    frozen = PrefixEncoder(model)
    sides = Prefixes(frozen.images([Picture.at(file) for file in files]), frozen.texts([item.prompt for item in items]))
    images, texts = embed(model, sides)
    return [{"picture": os.path.relpath(files[best], folder)} for best in (texts @ images.T).argmax(1).tolist()]

"""A bundle as a model repository of the Hugging Face Hub, with a card that the Hub understands."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kit.adapters.bundle import Bundle, open_bundle
from kit.adapters.card import card
from kit.manifest import Base, Manifest, write
from kit.result import Result
from kit.sharing.facts import LIMITS, remaking
from kit.sharing.hub import upload

_ON_THE_HUB = re.compile(r"(?:^hf:|^hub:|https://huggingface\.co/(?:datasets/)?)([\w.-]+/[\w.-]+)")
_TASKS = {"dual-encoder": "zero-shot-image-classification", "vision-language": "image-text-to-text"}
OPEN = """```python
# With kit; every file is checked against its hash first:
import kit
model = kit.open_bundle("hf-bundle:{name}").load()
```"""


def push_bundle(
    bundle: Bundle | Path | str, name: str, *, private: bool = False, dry_run: bool = False
) -> list[tuple[str, int]]:
    """Upload a bundle as one commit; ``hf-bundle:ORG/NAME`` opens it again.

    Its card is written anew for the Hub, so the copy there has a digest of its own, and names this bundle as a parent.

    Args:
        bundle: The bundle or its folder.
        name: ORG/NAME.
        private: Whether a repository that is new is private.
        dry_run: Upload nothing; only look.

    Returns:
        What goes, or would go: names and bytes.

    Raises:
        BundleError: a damaged bundle, files that must not go (all at once), no login, or what the Hub says.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="kit-push-") as scratch:
        stage(opened, Path(scratch), name)
        return upload(Path(scratch), name, kind="model", private=private, dry_run=dry_run)


def stage(bundle: Bundle, folder: Path, name: str) -> None:
    """Write a bundle into an empty folder as the Hub will have it: at the root, with the Hub's card."""
    for file in bundle.manifest.files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / file, folder / file)
    text = hub_card(bundle.manifest, name, command=remaking(bundle.folder))
    (folder / "README.md").write_text(text, encoding="utf-8")
    digest = bundle.manifest.digest()
    parents = {**bundle.manifest.parents, bundle.manifest.name: digest}
    write(folder, dataclasses.replace(bundle.manifest, parents=parents))


def hub_card(manifest: Manifest, name: str, *, command: str = "") -> str:
    """Return a model card: front matter with results as the Hub's model-index, and the bundle's own card below it.

    Args:
        manifest: The bundle's.
        name: ORG/NAME.
        command: The command that makes the bundle again; may be empty.

    Source:
        https://huggingface.co/docs/hub/model-cards
    """
    own = card(manifest, OPEN.format(name=name)).split("---\n", 2)
    sections = [own[2].rstrip(), "## Limits", "\n".join(f"- {line}" for line in LIMITS.get(manifest.kind, ()))]
    sections += ["## Lineage", _lineage(manifest)]
    if command:
        sections += ["## How to make it again", f"```sh\n{command}\n```"]
    return f"---\n{_data(manifest, own[1])}\n---\n" + "\n\n".join(sections) + "\n"


def _data(manifest: Manifest, front_matter: str) -> str:
    import yaml
    from huggingface_hub import ModelCardData

    said: dict[str, Any] = yaml.safe_load(front_matter)
    results = _eval_results(manifest)
    bases = [found for base in manifest.bases if (found := _hub_name(base))]
    data = [found for base in manifest.data if base.source.startswith("hub:") and (found := _hub_name(base))]
    if bases:
        said["base_model"] = bases if len(bases) > 1 else bases[0]
        if manifest.kind == "vision-language":
            said["base_model_relation"] = "adapter"
    if data:
        said["datasets"] = data
    if manifest.kind in _TASKS:
        said["pipeline_tag"] = _TASKS[manifest.kind]
    return ModelCardData(model_name=html.escape(manifest.name), eval_results=results or None, **said).to_yaml()


def _hub_name(base: Base) -> str:
    """Return what a base is called on the Hub: of a part, where its packager took it from; else empty."""
    found = _ON_THE_HUB.search(base.source) or _ON_THE_HUB.search(base.origin)
    return found[1] if found else ""


def _eval_results(manifest: Manifest) -> list[Any]:
    from huggingface_hub import EvalResult

    if not manifest.results:
        return []
    sources = {base.source for base in manifest.data}
    source = next(iter(sources)) if len(sources) == 1 else "its own data"
    return [
        EvalResult(
            task_type=_TASKS.get(manifest.kind, "other"), dataset_type=_hub_id(source), dataset_name=source,
            dataset_split=one.split or None, metric_type=name, metric_value=one.value,
            metric_name=f"{name} [{one.unit}], n={one.n}, {one.method}".rstrip(", "),
        )
        for name, one in Result.from_json(manifest.results).measurements.items()
    ]  # fmt: skip


def _hub_id(source: str) -> str:
    return re.sub(r"[^\w./-]+", "-", source.removeprefix("hub:").partition("@")[0]).strip("-") or "data"


def _lineage(manifest: Manifest) -> str:
    lines = [f"- this bundle as it was made: `{manifest.digest()}`"]
    lines += [f"- from {name}: `{digest}`" for name, digest in manifest.parents.items()]
    lines += [f"- built on `{base.source}`: `{base.digest}`" for base in manifest.bases]
    lines += [f"- trained on `{base.source}`, split {base.split}: `{base.digest}`" for base in manifest.data]
    return "\n".join(lines)

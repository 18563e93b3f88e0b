"""A bundle's page as a folder that Hugging Face Spaces runs as it is: everything in it, nothing of this machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kit
from kit.adapters.bundle import Bundle, open_bundle
from kit.adapters.card import card
from kit.errors import BundleError, Fault, did_you_mean, listed, raise_faults
from kit.manifest import Manifest
from kit.parts.catalog import PARTS
from kit.sharing.demo import opened_bundles
from kit.sharing.demo_parts import EXAMPLES, VECTORS, make_examples
from kit.sharing.facts import remaking
from kit.sharing.space_files import folder_faults

PYTHON = "3.12"  # ZeroGPU has 3.10 and 3.12, and kit wants 3.11
# What a page needs of what kit depends on; Gradio is the front matter's sdk_version.
NEEDED = (
    "accelerate", "emoji", "filelock", "gguf", "numpy", "open_clip_torch", "peft", "pillow", "platformdirs", "psutil",
    "resvg_py", "safetensors", "scipy", "timm", "tqdm", "transformers",
)  # fmt: skip
# ZeroGPU's own list, "Supported Versions" at https://huggingface.co/docs/hub/spaces-zerogpu, reaches from torch 2.8 and
# Python 3.10 or 3.12; what it adds at the end changes, so this is not the latest. torchvision is the one of that torch.
ZERO_GPU = MappingProxyType({"torch": "2.11.0", "torchvision": "0.26.0"})
HARDWARE = ("cpu", "zero-gpu")
PACKAGE_FILES = {".py", ".css", ".js", ".html", ".j2"}
APP = '''"""This Space's page; made by `kit space build`."""
{imports}
from pathlib import Path
{gpu}
HERE = Path(__file__).parent
os.environ["KIT_HOME"] = str(HERE / "home")
from kit.sharing.demo import demo  # noqa: E402 - after kit was told where its parts are

demo(
    HERE / "bundle",
    pictures=str(HERE / "pictures"),
    command={command!r},
    host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),{more}
).wait()
'''


def build_space(
    bundle: Bundle | Path | str, out: Path, *, hardware: str = "cpu", title: str = "", pictures: str = ""
) -> Path:
    """Write a Space's folder; it appears whole or not at all.

    It holds the bundle, the packaged parts that it is built on (a Hub model is named, and fetched by the Space), the
    pictures that it finds with their vectors, kit's own sources, pinned requirements, and a few lines of ``app.py``.

    Args:
        bundle: The bundle or its folder.
        out: Where to; there must be nothing.
        hardware: "cpu" or "zero-gpu".
        title: What the Space is called; the bundle's name by default.
        pictures: What a dual encoder finds; see ``kit.sharing.demo.demo``.

    Returns:
        The folder.

    Raises:
        BundleError: something is there already, hardware that is unknown, bases that lie on this machine, files that
            are too large for a Space, or something that looks like a secret; all faults at once.
    """
    (opened,) = opened_bundles([bundle])
    target = Path(out).absolute()
    _check(opened, target, hardware)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _fill(work, opened, hardware, title or opened.manifest.name, pictures)
        raise_faults(folder_faults(work), BundleError)
        work.chmod(0o755)
        os.replace(work, target)  # noqa: PTH105 - a folder, in one step
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _check(bundle: Bundle, target: Path, hardware: str) -> None:
    faults = []
    if hardware not in HARDWARE:
        what = f"{hardware!r} is unknown.{did_you_mean(hardware, HARDWARE)}"
        faults.append(Fault("--hardware", what, allowed=f"Allowed: {listed(HARDWARE)}."))
    if target.exists():
        faults.append(Fault(str(target), "is there already", "choose another folder, or delete it"))
    if bundle.manifest.kind == "vision-language":
        faults += [
            Fault(base.source, "lies on this machine, not in a Space", "build it on a part or a hf: model")
            for base in bundle.manifest.bases
            if base.source.startswith("local-dir:") or Path(base.origin).is_absolute()
        ]  # fmt: skip
    raise_faults(faults, BundleError)


def _fill(folder: Path, bundle: Bundle, hardware: str, title: str, pictures: str) -> None:
    command = remaking(bundle.folder)
    for name in (*bundle.manifest.files, "manifest.json"):
        (folder / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / "bundle" / name)
    (folder / "pictures").mkdir()
    if bundle.manifest.kind == "dual-encoder":
        _put_pictures(folder / "pictures", bundle, pictures)
    else:
        _put_examples(folder / "pictures", bundle)
        _put_parts(folder / "home" / "parts", bundle)
    _put_kit(folder / "kit")
    (folder / "app.py").write_text(app_of(bundle.manifest.kind, hardware, command), encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(hardware), encoding="utf-8")
    (folder / "README.md").write_text(_readme(bundle, title), encoding="utf-8")
    patterns = "".join(
        f"{one} filter=lfs diff=lfs merge=lfs -text\n" for one in ("*.safetensors", "*.gguf", "*.pth", "*.webp")
    )
    (folder / ".gitattributes").write_text(patterns, encoding="utf-8")


def app_of(kind: str, hardware: str, command: str) -> str:
    """Return the text of a Space's ``app.py``.

    Args:
        kind: The bundle's.
        hardware: "cpu" or "zero-gpu".
        command: What makes the bundle again.
    """
    imports, gpu, more = "import os", "", ""
    if hardware == "zero-gpu":
        imports = "import os\n\nimport spaces  # before torch"
        if kind == "vision-language":
            more = '\n    device="cuda",\n    wrap=spaces.GPU,'
        else:  # a search takes 20 ms without a GPU, and seconds to be lent one
            gpu = "\nspaces.GPU(print)  # nothing here needs it, but ZeroGPU starts no Space that has none"
    return APP.format(imports=imports, command=command, more=more, gpu=gpu)


def _put_pictures(folder: Path, bundle: Bundle, pictures: str) -> None:
    from kit.sharing.finding import Finder, save_vectors
    from kit.sharing.shelf import make_shelf

    with tempfile.TemporaryDirectory(prefix="kit-space-") as copies:
        shelf = make_shelf(bundle.manifest, Path(copies), source=pictures)
        finder = Finder(bundle.load(), shelf, bundle.manifest.name)
        finder.read()
        shelf.save(folder)
    save_vectors(folder / VECTORS, finder.vectors)


def _put_examples(folder: Path, bundle: Bundle) -> None:
    found = make_examples(bundle, folder)
    said = [{"file": Path(path).name, "question": question} for path, question in found]
    (folder / EXAMPLES).write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")


def _put_parts(folder: Path, bundle: Bundle) -> None:
    from kit.parts.pull import get

    for base in bundle.manifest.bases:
        if base.source in PARTS:
            found = get(base.source)
            shutil.copytree(found, folder / found.name)


def _put_kit(folder: Path) -> None:
    """Copy kit's own sources: a Space installs its requirements before its files are there, so no wheel would be."""
    package = Path(kit.__file__).parent
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package)
        if path.suffix in PACKAGE_FILES and not {"__pycache__", "_share"} & set(inside.parts):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / inside)


def requirements(hardware: str) -> str:
    """Return a Space's requirements, each pinned to what is installed here; torch to what the hardware runs."""
    torch = {name: version(name).partition("+")[0] for name in ("torch", "torchvision")}
    lines = []
    if hardware == "zero-gpu":
        torch = dict(ZERO_GPU)
        lines.append("spaces")  # without a number: ZeroGPU brings the one that fits it
    else:
        # Without it pip takes 5 GB of CUDA; where it cannot be reached, pip says so and goes on.
        lines.append("--extra-index-url https://download.pytorch.org/whl/cpu")
    pins: Mapping[str, str] = {**torch, "gradio": version("gradio"), **{name: version(name) for name in NEEDED}}
    return "\n".join([*lines, *(f"{name}=={pins[name]}" for name in sorted(pins))]) + "\n"


def front_matter(manifest: Manifest, title: str) -> dict[str, Any]:
    """Return what a Space's README begins with."""
    sources = [base.source for base in (*manifest.bases, *manifest.data)]
    said: dict[str, Any] = {
        "title": title,
        "emoji": "🔎" if manifest.kind == "dual-encoder" else "💬",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": PYTHON,
        "app_file": "app.py",
        "license": _licence(manifest.licences()),
    }
    if models := [one.removeprefix("hf:").partition("@")[0] for one in sources if one.startswith("hf:")]:
        said["models"] = models
    if data := [one.removeprefix("hub:").partition("@")[0] for one in sources if one.startswith("hub:")]:
        said["datasets"] = data
    return said


def _licence(found: Sequence[str]) -> str:
    """Return the licence that binds most: share-alike data may bind what was trained on it."""
    return min(found, key=lambda name: ("-SA-" not in name, name)).lower() if found else "other"


def _readme(bundle: Bundle, title: str) -> str:
    import yaml

    head = yaml.safe_dump(front_matter(bundle.manifest, title), sort_keys=False, allow_unicode=True)
    body = card(bundle.manifest).split("---\n", 2)[2]
    return f"---\n{head}---\n{body}"


def is_space(folder: Path) -> bool:
    """Tell whether a folder is a Space's."""
    return (folder / "app.py").is_file() and (folder / "README.md").is_file()


def space_of(folder: Path) -> Bundle:
    """Return the bundle in a Space's folder, verified.

    Raises:
        BundleError: no Space's folder, or a damaged bundle in it.
    """
    if not is_space(folder):
        raise BundleError.of(str(folder), "is no Space's folder", "make one with kit space build")
    return open_bundle(folder / "bundle")

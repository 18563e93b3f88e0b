"""A bundle's picture search as a static Space: both towers run in the visitor's browser, and no server computes."""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kit.sharing
from kit.adapters.bundle import Bundle
from kit.adapters.card import card
from kit.errors import BundleError, Fault, raise_faults
from kit.evaluation.scores import TEMPLATES
from kit.parts.pull import get
from kit.parts.reference import folder_digest
from kit.quantization.export import export_pairs
from kit.quantization.onnx_clip import Likeness, OnnxClip, open_onnx_clip
from kit.sharing.demo import opened_bundles
from kit.sharing.demo_search import LABELS, SearchPage
from kit.sharing.facts import facts
from kit.sharing.finding import Finder
from kit.sharing.shelf import make_shelf
from kit.sharing.space import front_matter
from kit.sharing.space_files import STATIC, files_of, folder_faults
from kit.sharing.static_words import words_settings

PAGE = Path(kit.sharing.__file__).parent / "static"
RUNTIME = "onnxruntime-web"
MOST_BYTES = 60_000_000  # of the whole folder: what a visitor waits for on a phone
VECTORS, PACKED, ITEMS = "pictures/vectors.f16", "pictures/pictures.bin", "pictures/pictures.json"
WORDS = "words.json"
# What the page loads before it says that it is ready, the smallest first.
LOADED = (
    WORDS, ITEMS, VECTORS, "model/image.onnx", PACKED, "onnxruntime/ort-wasm-simd-threaded.wasm", "model/text.onnx",
)  # fmt: skip
_RUN = {  # .js, since not every server knows .mjs
    "dist/ort.wasm.bundle.min.mjs": "ort.min.js",
    "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_LFS = ("*.onnx", "*.wasm", "*.bin", "*.f16")
_OPENING = """Any server of files serves it: `python -m http.server` in this folder, then http://localhost:8000.

```python
# The towers in Python, on the same files; every file is checked against its hash first:
from kit.quantization.onnx_clip import open_onnx_clip
encoder = open_onnx_clip("model")
```"""
_IN_BROWSER = """### In the browser

Both towers run in int8 by ONNX Runtime Web, in one thread. Against the bundle's own in float32, on {n} held-out pairs:
recall@1 changes by {change:+.2f} points (a loss of 1 is allowed); mean cosine {image:.4f} for pictures, {text:.4f} for
texts. Every search is exact, by vectors kept as float16.
Words that were read in a wrong encoding (“cafÃ©”) are taken as they are, where Python would repair them."""


def build_static(bundle: Bundle | Path | str, out: Path, *, title: str = "", pictures: str = "") -> Path:
    """Write a static Space's folder; it appears whole or not at all.

    It holds both towers in int8 (after the gate of ``kit export``), the pictures that are found with their vectors,
    ONNX Runtime Web, the page, and nothing that a server would have to run.

    Args:
        bundle: A dual encoder's bundle or its folder.
        out: Where to; there must be nothing.
        title: What the Space is called; the bundle's name by default.
        pictures: What is found; see ``kit.sharing.demo.demo``.

    Returns:
        The folder.

    Raises:
        BundleError: something is there already, a bundle that is no dual encoder, a tokenizer or pictures' preparation
            that JavaScript does not know, towers that fail the gate, or a folder that is too large or tells too much.
    """
    (opened,) = opened_bundles([bundle])
    target = Path(out).absolute()
    _check(opened, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _fill(work, opened, title or opened.manifest.name, pictures)
        raise_faults(folder_faults(work, most=MOST_BYTES), BundleError)
        work.chmod(0o755)
        os.replace(work, target)  # noqa: PTH105 - a folder, in one step
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _check(bundle: Bundle, target: Path) -> None:
    faults = []
    if target.exists():
        faults.append(Fault(str(target), "is there already", "choose another folder, or delete it"))
    if bundle.manifest.kind != "dual-encoder":
        what = f"is a {bundle.manifest.kind}; a browser runs dual encoders only"
        faults.append(Fault(str(bundle.folder), what, "kit space build without --static"))
    raise_faults(faults, BundleError)


def _fill(folder: Path, bundle: Bundle, title: str, pictures: str) -> None:
    encoder = bundle.load()
    words, pixels = words_settings(encoder), _pixels(bundle, encoder.preprocess_cfg)
    likeness = _export(bundle, folder / "model", pictures)
    finder = _put_pictures(folder, bundle, open_onnx_clip(folder / "model"), pictures)
    (folder / WORDS).write_text(json.dumps(words), encoding="utf-8")
    runtime, copies = get(RUNTIME), folder / "onnxruntime"
    copies.mkdir()
    for source, name in _RUN.items():
        shutil.copyfile(runtime / source, copies / name)
    shutil.copyfile(PAGE / "onnxruntime-licence.txt", copies / "LICENSE.txt")
    said = {**_said(finder), "pixels": pixels, "pad": words.get("pad", 0)}
    said["files"] = [{"name": name, "bytes": (folder / name).stat().st_size} for name in LOADED]
    (folder / STATIC).write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")
    browser = _IN_BROWSER.format(**vars(likeness), change=-(likeness.points or 0.0))
    _put_page(folder, bundle, finder, title, browser)
    (folder / "README.md").write_text(_readme(bundle, title, browser), encoding="utf-8")
    patterns = "".join(f"{one} filter=lfs diff=lfs merge=lfs -text\n" for one in _LFS)
    (folder / ".gitattributes").write_text(patterns, encoding="utf-8")


def _pixels(bundle: Bundle, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what happens to a picture before its tower sees it, as ``pixels.js`` takes it."""
    size, how = given["size"], given.get("resize_mode", "shortest")
    height, width = (size, size) if isinstance(size, int) else size
    known = height == width and how in {"shortest", "squash"} and given["interpolation"] in {"bicubic", "bilinear"}
    if not known or given.get("mode", "RGB") != "RGB":
        what = f"its pictures are prepared in a way that the page does not know: {json.dumps(dict(given))}"
        allowed = "Squares of RGB, by the shortest side or squashed, bicubic or bilinear."
        raise BundleError.of(str(bundle.folder), what, "kit space build without --static", allowed)
    return {
        "side": height, "resize": how, "interpolation": given["interpolation"], "mean": list(given["mean"]),
        "std": list(given["std"]),
    }  # fmt: skip


def _export(bundle: Bundle, folder: Path, pictures: str) -> Likeness:
    kept, likeness = export_pairs(bundle, folder, "" if bundle.manifest.data else pictures)
    if kept is None:
        fix = "kit space build without --static, which runs the bundle in float32"
        raise BundleError([Fault(str(bundle.folder), f"in int8: {one}", fix) for one in likeness.faults()])
    return likeness


def _put_pictures(folder: Path, bundle: Bundle, encoder: OnnxClip, pictures: str) -> Finder:
    """Write small copies of all pictures as one file, with their names, and the int8 tower's vectors."""
    (folder / "pictures").mkdir()
    with tempfile.TemporaryDirectory(prefix="kit-space-") as copies:
        shelf = make_shelf(bundle.manifest, Path(copies), source=pictures)
        finder = Finder(encoder, shelf, bundle.manifest.name)
        finder.read()
        items = []
        with (folder / PACKED).open("wb") as packed:
            for place, item in enumerate(shelf.items):
                size = packed.write(shelf.copy(place).read_bytes())
                items.append({"names": dict(item.names), "trained_on": item.trained_on, "bytes": size})
    (folder / ITEMS).write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    (folder / VECTORS).write_bytes(finder.vectors.all().numpy().astype("<f2").tobytes())
    return finder


def _said(finder: Finder) -> dict[str, Any]:
    shelf, page = finder.shelf, SearchPage([finder])
    scale = finder.encoder.clip.logit_scale.exp().clamp(max=100)  # type: ignore[operator]
    return {
        "width": finder.encoder.embed_dim,
        "scale": float(scale),
        "templates": list(TEMPLATES),
        "languages": list(shelf.languages),
        "tries": {language: page.words(language) for language in shelf.languages},
        "samples": page.places(),
    }


def _put_page(folder: Path, bundle: Bundle, finder: Finder, title: str, browser: str) -> None:
    from markdown_it import MarkdownIt

    for name in ("app.js", "pixels.js", "style.css", "tokenizer.js", "worker.js"):
        shutil.copyfile(PAGE / name, folder / name)
    told = facts(bundle) + "\n" + browser
    written = MarkdownIt("commonmark", {"html": False}).enable("table").render(told)
    credit = "; ".join(filter(None, [finder.shelf.attribution, "runs on ONNX Runtime Web by Microsoft, MIT"]))
    loaded = sum((folder / name).stat().st_size for name in LOADED)
    filled = (PAGE / "index.html").read_text(encoding="utf-8")
    for name, text in {
        "title": html.escape(title), "credit": html.escape(credit), "labels": html.escape(LABELS),
        "size": f"{loaded / 1e6:.0f}", "card": written,
    }.items():  # fmt: skip
        filled = filled.replace(f"<!--{name}-->", text)
    (folder / "index.html").write_text(filled, encoding="utf-8")
    # Another version of any file gives another script, by which a browser knows that it must fetch all of them anew.
    worker = (PAGE / "sw.js").read_text(encoding="utf-8").replace("/*version*/", folder_digest(folder)[:16])
    (folder / "sw.js").write_text(worker, encoding="utf-8")


def _readme(bundle: Bundle, title: str, browser: str) -> str:
    import yaml

    gradios = {"sdk_version", "python_version"}
    front = {name: value for name, value in front_matter(bundle.manifest, title).items() if name not in gradios}
    front |= {"sdk": "static", "app_file": "index.html"}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    body = card(bundle.manifest, _OPENING).split("---\n", 2)[2]
    return f"---\n{head}---\n{body}\n{browser.replace('###', '##')}\n"


def folder_bytes(folder: Path) -> int:
    """Return what would be uploaded, in bytes."""
    return sum(path.stat().st_size for path in files_of(folder))

"""The static Space in Chromium: without a network it finds what Python finds, and what must not be is said."""

from __future__ import annotations

import dataclasses
import html
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_bundles import NAMES, clip_bundle
from typer.testing import CliRunner

from kit.cli.app import app
from kit.errors import BundleError
from kit.quantization.onnx_clip import Likeness, open_onnx_clip
from kit.sharing import static_check, static_space
from kit.sharing.finding import Finder
from kit.sharing.shelf import make_shelf
from kit.sharing.static_check import READY, ask, check_static, served
from kit.sharing.static_space import build_static
from kit.sharing.static_words import words_settings

pytestmark = [pytest.mark.browser, pytest.mark.weights]  # it carries a packaged part, ONNX Runtime Web
PATIENCE_MS = 120_000
ODD = [
    "", "   ", "[CLS] a [MASK] b", "a<b &amp; c", "&lt;b&gt; &amp;amp;", "&notit; &not; &Eacute; &EACUTE;",
    "&amp &#59;", "&#x41;&#0;&#128;&#xD800;&#1114112;&#1;", "<a>\n&eacute;", "constructor &toString; __proto__",
    "ﬁne ﬂuﬃest ĳ ŉ", "ＬＯＵＤ　ＮＯＩＳＥＳ", "“quoted” ‘x’ ʼn", "naïve café e\u0301", "İstanbul ΑΣ ΣΑΣ ß ẞ",
    "漢字かな カタカナ ｶﾀｶﾅ", "한국어 텍스트 ﾡ", "مرحبا بالعالم ﷺ", "שָׁלוֹם עולם", "हिन्दी पाठ ५६",
    "ภาษาไทย", "🇩🇪 👩‍👩‍👧 👍🏽 🫨", "a\u200bb\u200dc\ufeffd\u00ade", "x\u2028y\u2029z\x85w\tv\nu\r\nt",
    "\ud83d lone", "\udc00\ud800", "\x1b[31mred\x1b[0m", "\x00\x01\x7f", "x" * 150, "word " * 200, "漢" * 100,
    "don't I'll we've they're he's I'm I'd", "3.14 1,000 ٣٤ ①② ²³ ⅓", "C++ C# .NET http://example.com/a?b=c&d=e",
    "𝒥ohn ℋancock 𝟘𝟙", "㍿ ㌀ Ǆ ǅ", "\U000e0067\U000e0062 \ue000", "¿qué? ¡hola!",
    "<start_of_text>hi<end_of_text>", "a _ b __c", "a\u0338 ≠ \u0378 \U0001f9ff", "–—…⁄\u0f0b\u1361", "\xa0n\u3000",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Space of a random CLIP, whose int8 towers no gate is meant for."""
    home = tmp_path_factory.mktemp("static")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Likeness, "faults", lambda self: [])
        return build_static(clip_bundle(home), home / "space")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where it is served."""
    with served(folder) as where:
        yield where


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page on a phone, ready, and without a network from then on."""
    context = browser.new_context(viewport={"width": 375, "height": 740}, service_workers="block")
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    opened.goto(address)
    opened.wait_for_selector(READY, state="attached")
    context.set_offline(True)
    yield opened
    context.close()


@pytest.fixture(scope="module")
def script(browser: Any, address: str) -> Iterator[Callable[[str, Any], Any]]:
    """Call a function of one of its modules, in an empty page."""
    opened = browser.new_page()
    opened.goto(f"{address}/onnxruntime/LICENSE.txt")
    yield opened.evaluate
    opened.close()


def test_the_folder_is_a_static_space(folder: Path) -> None:
    import yaml

    said = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (said["sdk"], said["app_file"], said["title"]) == ("static", "index.html", "Tiny <b>CLIP</b>")
    assert not {"sdk_version", "python_version"} & set(said)
    assert 'open_onnx_clip("model")' in (folder / "README.md").read_text()
    page = (folder / "index.html").read_text()
    assert html.escape("Tiny <b>CLIP</b>") in page
    assert "<b>CLIP" not in page
    assert "recall at 1" in page
    assert "0.1 – 0.9" in page, "results come with intervals"
    assert "recall@1 changes by" in page
    assert "<!--" not in page
    assert "unsafe-inline" not in page
    assert "default-src 'none'" in page
    assert "MIT License" in (folder / "onnxruntime/LICENSE.txt").read_text()
    large = {path.suffix for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000}
    for suffix in large:
        assert f"*{suffix} filter=lfs" in (folder / ".gitattributes").read_text()


def test_it_finds_what_python_finds_and_asks_nobody(folder: Path, tmp_path: Path) -> None:
    found = check_static(folder, questions=12, screenshot=tmp_path / "shots" / "page.png")
    assert (found.asked, found.differ, found.elsewhere, found.complaints) == (12, (), (), ())
    assert found.mb < 60
    assert found.screenshot is not None
    assert found.screenshot.stat().st_size > 10_000


def test_what_must_not_be_is_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    worker = (bad / "worker.js").read_text()
    asks = 'fetch("http://127.0.0.1:9/stolen").catch(() => 0);\n'
    (bad / "worker.js").write_text(worker.replace("async function load() {", "async function load() {\n" + asks))
    (bad / "app.js").write_text((bad / "app.js").read_text() + '\nfetch("http://127.0.0.1:9/too").catch(() => 0);\n')
    split = (bad / "tokenizer.js").read_text()
    (bad / "tokenizer.js").write_text(split.replace("(text) => encode(clean(text))", '(text) => encode("cat")'))
    found = check_static(bad, questions=3)
    assert found.elsewhere == ("http://127.0.0.1:9/stolen",), "by the worker; the page's own is stopped by its policy"
    assert any("Content Security Policy" in one for one in found.complaints)
    assert len(found.differ) == 3
    monkeypatch.setattr(static_check, "check_static", lambda *_, **__: dataclasses.replace(found, first_s=7.5))
    done = CliRunner().invoke(app, ["space", "check", str(bad)])
    assert done.exit_code == 1
    for words in ("9/stolen: was asked for", "Security Policy", "3 of 3 questions find other", "took 7.5 s"):
        assert words in done.output


def test_secrets_and_damage_are_found(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    (bad / "notes.txt").write_text("hf_" + "a" * 34)
    with pytest.raises(BundleError, match="looks like a Hugging Face token"):
        check_static(bad)
    (bad / "notes.txt").unlink()
    graph = bad / "model" / "text.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"text\.onnx"):
        check_static(bad)


def test_words_split_as_in_python(folder: Path, script: Callable[[str, Any], Any]) -> None:
    import emoji
    from open_clip.tokenizer import HFTokenizer

    from kit.parts.pull import get

    emoji.config.load_language()

    class Towers:
        name = "MiniLM"
        tokenizer = HFTokenizer(str(get("minilm-l6")), context_length=77)

    names = [
        one[tongue].strip(":").replace("_", " ")
        for one in list(emoji.EMOJI_DATA.values())[::60]
        for tongue in ("en", "de", "es", "fr", "it", "pt", "ja", "ko", "zh", "ru", "tr", "fa", "id", "ar")
        if tongue in one
    ]
    assert len(names) > 800
    texts = [*names, *ODD]
    tables = {"wordpiece": words_settings(Towers), "byte pairs": json.loads((folder / "words.json").read_text())}
    tokenizers = {"wordpiece": Towers.tokenizer, "byte pairs": open_onnx_clip(folder / "model").tokenizer}
    for kind, settings in tables.items():
        assert settings["kind"] == kind
        found = script(
            """async ([settings, texts]) => {
                const { makeTokenizer } = await import("/tokenizer.js");
                return texts.map(makeTokenizer(settings));
            }""",
            [settings, texts],
        )
        right = tokenizers[kind](texts).tolist()
        for text, ids, wanted in zip(texts, found, right, strict=True):
            assert [*ids, *[0] * (len(wanted) - len(ids))] == wanted, (kind, text)


def test_other_tokenizers_are_refused_with_one_clear_error() -> None:
    from tiny_tokenizers import trained

    class Inner:
        backend_tokenizer = trained(bytes_=True)

    class Tokenizer:
        tokenizer = Inner()

    class Towers:
        name = "open_clip:Mine/of-mine"
        tokenizer = Tokenizer()

    with pytest.raises(BundleError, match="its tokenizer cannot run in a browser: BPE on ByteLevel") as caught:
        words_settings(Towers)  # type: ignore[arg-type]
    assert "Fix: kit space build without --static" in str(caught.value)


@pytest.mark.parametrize(("resize", "interpolation"), [("shortest", "bicubic"), ("squash", "bilinear")])
def test_pictures_are_made_small_as_in_python(
    script: Callable[[str, Any], Any], resize: str, interpolation: str
) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    how = {"mean": (0.48, 0.45, 0.4), "std": (0.26, 0.26, 0.27), "interpolation": interpolation}
    transform = image_transform_v2(PreprocessCfg(size=32, resize_mode=resize, **how), is_train=False)
    for width, height in ((40, 40), (32, 57), (301, 120), (13, 9), (77, 33)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
        found = script(
            """async ([data, width, height, how]) => {
                const { towerPixels } = await import("/pixels.js");
                return Array.from(towerPixels({ data, width, height }, how));
            }""",
            [pixels.reshape(-1).tolist(), width, height, {**how, "side": 32, "resize": resize}],
        )
        right = transform(Image.fromarray(pixels[..., :3].copy(), "RGB")).flatten().numpy()
        # Half a step of 1/255, over the least deviation: to the bit before the numbers become float32.
        np.testing.assert_allclose(np.array(found), right, atol=0.5 / 255 / 0.27)


def test_a_picture_of_ones_own(page: Any, folder: Path, tmp_path: Path) -> None:
    from kit.manifest import read

    source = folder.parent / "pictures" / "3.png"
    page.click("#tab-own")
    page.fill("#labels", "thing, place, time")
    page.set_input_files("#file", source)
    page.wait_for_selector("#own-found button")
    page.wait_for_selector("#shares li")
    first = page.locator("#own-found button").first
    assert first.locator(".name").inner_text() == NAMES[3]
    assert float(first.get_attribute("data-score")) > 0.99
    finder = Finder(open_onnx_clip(folder / "model"), make_shelf(read(folder / "model"), tmp_path), "")
    from PIL import Image

    shares = finder.label(Image.open(source).convert("RGB"), ["thing", "place", "time"])
    shown = dict(text.split("\n")[:2] for text in page.locator("#shares li").all_inner_texts())
    for label, share in shares.items():
        assert abs(100 * share - float(shown[label].removesuffix("%"))) <= 2
    (tmp_path / "bad.png").write_text("<svg onload='x()'/>")
    page.set_input_files("#file", tmp_path / "bad.png")
    page.wait_for_selector("#own-about.bad")
    assert page.locator("#own-about").inner_text() == "This picture is damaged. Choose another."


def test_by_keys_alone_on_a_phone(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.click("#tab-find")
    page.focus("#words")
    page.keyboard.type("thing number 3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found button")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('#tries, #found, .choices, #ask')?.id ?? ''"))
    assert {"tries", "found", "ask"} <= reached
    page.locator("#found button").nth(2).focus()
    place = page.locator("#found button").nth(2).get_attribute("data-place")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#found:not(:has([data-place='{place}']))")
    page.focus("#tab-find")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#card:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "tab-card"
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_held_out_pictures_alone_and_words_that_are_refused(page: Any) -> None:
    page.click("#tab-find")
    page.check("#held-out")
    assert len(ask(page, NAMES[0])) == 4, "four of twelve were held out"
    assert page.locator("#found", has_text="trained on").count() == 0
    page.fill("#words", "  ")
    page.press("#words", "Enter")
    page.wait_for_selector("#about.bad")
    assert "Write some words" in page.locator("#about").inner_text()


def test_it_opens_again_without_a_network(browser: Any, address: str) -> None:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(READY, state="attached")
    before = ask(page, NAMES[5])
    context.set_offline(True)
    page.reload()
    page.wait_for_selector(READY, state="attached")
    assert ask(page, NAMES[5]) == before
    context.close()


def test_towers_that_fail_their_gate_leave_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = clip_bundle(tmp_path)
    failed = (None, Likeness(0.5, 0.99, 3.0, 9))
    monkeypatch.setattr(static_space, "export_pairs", lambda *_: failed)
    with pytest.raises(BundleError, match=r"in int8: image: mean cosine 0\.5000") as caught:
        build_static(bundle, tmp_path / "out")
    assert "3.00 points lost" in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.soak
def test_a_real_bundle_with_two_hundred_questions(tmp_path: Path, kit: Callable[..., Any]) -> None:
    done = kit("run", "stitch-clip", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    (bundle,) = (tmp_path / "runs").rglob("stitched-clip")
    done = kit("space", "build", bundle, "--static", "--out", tmp_path / "space")
    assert done.returncode == 0, done.stderr
    done = kit("space", "check", tmp_path / "space", "--questions", 200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " of 200 questions find the same five pictures" in done.stdout

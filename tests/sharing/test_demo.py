"""A bundle's page, through gradio_client: it finds, labels, answers, and says what it is."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from free_ports import free_port
from gradio_client import Client, handle_file
from small_bundles import NAMES, clip_bundle, program

import kit
from kit.adapters.bundle import Bundle
from kit.data.rows import Message
from kit.errors import BundleError, DataError
from kit.sharing.demo import Demo, demo
from kit.sharing.demo_ask import voices
from kit.sharing.facts import facts, remaking
from kit.sharing.talking import Talker


@pytest.fixture(scope="module")
def search(clip_demo: Demo) -> Client:
    return program(clip_demo)


@pytest.fixture(scope="module")
def ask(seeing_demo: Demo) -> Client:
    return program(seeing_demo)


def page(served: Demo, path: str = "/") -> str:
    with urllib.request.urlopen(served.address + path, timeout=60) as answer:
        return str(answer.read().decode())


def test_what_the_page_finds_is_what_open_clip_finds(search: Client, tiny_clip: Bundle) -> None:
    import open_clip
    import torch

    (found,) = search.predict("a red thing", "en", False, 12, api_name="/search")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip.folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tiny_clip.folder}")(["a red thing"])
    rows = kit.load_rows(tiny_clip.manifest.data[0].source, split="all")
    with torch.no_grad():
        pixels = torch.stack([transform(row.picture.open()) for row in rows])
        images = model.eval().encode_image(pixels, normalize=True)
        right = (images @ model.encode_text(tokens, normalize=True).T)[:, 0]
    assert [one["name"] for one in found] == [rows[int(place)].text for place in right.argsort(descending=True)]
    assert [one["score"] for one in found] == pytest.approx(right.sort(descending=True).values.tolist(), abs=2e-3)


def test_only_what_was_held_out(search: Client) -> None:
    (found,) = search.predict("a red thing", "en", True, 12, api_name="/search")
    assert {one["name"] for one in found} == {NAMES[number] for number in range(0, 12, 3)}
    assert not any(one["trained_on"] for one in found)


def test_labels_share_one(search: Client, tiny_clip: Bundle) -> None:
    picture = Path(tiny_clip.manifest.data[0].source.removeprefix("folder:")) / "0.png"
    said = search.predict(handle_file(picture), "cat, dog ,tree", api_name="/label")
    shares = {one["label"]: one["confidence"] for one in said["confidences"]}
    assert set(shares) == {"cat", "dog", "tree"}
    assert sum(shares.values()) == pytest.approx(1)


def test_the_api_tells_what_it_takes(search: Client, ask: Client) -> None:
    said = search.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(said) == {"/search", "/label"}
    assert "Find pictures by words" in str(said["/search"])
    assert set(ask.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/ask", "/compare"}


def test_an_answer_comes_word_by_word_and_is_generates_own(ask: Client, tiny_seeing: Bundle) -> None:
    from kit.models.chat import answer

    folder = Path(tiny_seeing.manifest.data[0].source.removeprefix("folder:"))
    job = ask.submit(handle_file(folder / "1.png"), "what is it?", "Tiny sees", api_name="/ask")
    last = job.result(timeout=60)
    assert len(job.outputs()) > 3, "it did not come piece by piece"
    model = tiny_seeing.load(device="cpu")
    row = next(one for one in kit.load_rows(f"folder:{folder}", split="all") if one.picture.name.endswith("1.png"))
    assert last.strip() == answer(model, [row.picture], ["what is it?"], max_new_tokens=128)[0]


def test_the_adapter_can_be_switched_off(ask: Client, tiny_seeing: Bundle) -> None:
    folder = Path(tiny_seeing.manifest.data[0].source.removeprefix("folder:"))
    names = [voice.name for voice in voices([Talker(tiny_seeing.load(device="cpu"), "Tiny sees")])]
    assert names == ["Tiny sees", "Tiny sees, adapter off"]
    on, off = ask.predict(handle_file(folder / "1.png"), "what is it?", *names, api_name="/compare")
    assert on
    assert on != off
    again, _ = ask.predict(handle_file(folder / "1.png"), "what is it?", *names, api_name="/compare")
    assert again == on, "switching it off left something behind"


def test_who_stops_listening_stops_the_work(tiny_seeing: Bundle) -> None:
    talker = Talker(tiny_seeing.load(device="cpu"), "it")
    before = set(threading.enumerate())
    answers = talker.answer(None, [Message("user", "what is it?")], tokens=100)
    next(answers)
    answers.close()
    # Not how many there are: a page that another test is done with lets go of idle ones meanwhile.
    assert set(threading.enumerate()) <= before, "it goes on generating"
    assert talker._busy.acquire(blocking=False), "nobody else can ask"


def test_an_answer_that_takes_too_long_is_cut(tiny_seeing: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.sharing import talking

    talker = Talker(tiny_seeing.load(device="cpu"), "it")
    monkeypatch.setattr(talking, "PATIENCE_S", 0.0)
    monkeypatch.setattr("transformers.TextIteratorStreamer.__init__", _patient(talking))
    said = list(talker.answer(None, [Message("user", "what is it?")], tokens=100))
    assert said[-1].endswith("(stopped after 0 seconds)")


def _patient(talking: object) -> Callable[..., None]:
    from transformers import TextIteratorStreamer

    plain = TextIteratorStreamer.__init__
    return lambda self, tokenizer, **options: plain(self, tokenizer, **{**options, "timeout": 20})


def test_a_conversation_that_is_too_long_is_told(tiny_seeing: Bundle) -> None:
    talker = Talker(tiny_seeing.load(device="cpu"), "it")
    with pytest.raises(DataError, match="with an answer the model reads"):
        next(talker.answer(None, [Message("user", "word " * 400)]))


def test_the_card_says_it_all(tiny_clip: Bundle, tmp_path: Path) -> None:
    text = facts(tiny_clip)
    assert "recall at 1 | 0.5 share | 0.1 – 0.9 | 4 | 0.25 | test" in text
    assert str(tiny_clip.folder.parent) not in text, "where it lies on this machine"
    assert "It was not made by a run" in text
    assert "kit run mine" in facts(tiny_clip, command="kit run mine")
    (tmp_path / "run.json").write_text('{"command": "kit run stitch-clip -p epochs=3"}')
    assert remaking(tmp_path / "bundle") == "kit run stitch-clip -p epochs=3"


def test_a_page_needs_bundles_that_go_together(tiny_clip: Bundle, tiny_seeing: Bundle) -> None:
    with pytest.raises(BundleError, match="there is no bundle"):
        demo()
    with pytest.raises(BundleError, match="a dual-encoder and a vision-language have no page together"):
        demo(tiny_clip, tiny_seeing)
    port = free_port()
    served = demo(tiny_clip, port=port)
    try:
        with pytest.raises(BundleError, match="cannot be listened at"):
            demo(tiny_clip, port=port)
    finally:
        served.close()


def test_a_machine_too_busy_to_show_gradio_a_page_within_3_seconds_serves_all_the_same(
    tiny_clip: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradio.networking.url_ok", lambda _: False)
    served = demo(tiny_clip, port=free_port())
    try:
        assert "Tiny" in page(served)
    finally:
        served.close()


def test_two_bundles_stand_side_by_side(tmp_path: Path, tiny_clip: Bundle) -> None:
    other = clip_bundle(tmp_path, name="Other", seed=3)
    source = tiny_clip.manifest.data[0].source
    served = demo(tiny_clip, other, port=free_port(), pictures=source)
    try:
        left, right = program(served).predict("a thing", "en", False, 12, api_name="/search")
        assert {one["name"] for one in left} == {one["name"] for one in right} == set(NAMES)
        assert [one["score"] for one in left] != [one["score"] for one in right]
    finally:
        served.close()


def test_pictures_are_seen_and_nothing_else_is(clip_demo: Demo, tiny_clip: Bundle) -> None:
    said = page(clip_demo, "/config")
    copies = set(re.findall(r'"path": ?"([^"]+\.webp)"', said))
    assert copies, "no example is shown"
    assert page_bytes(clip_demo, f"/gradio_api/file={copies.pop()}")[:4] == b"RIFF"
    for path in ("/etc/passwd", str(tiny_clip.folder / "manifest.json"), f"{tiny_clip.folder}/../pictures/0.png"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            page_bytes(clip_demo, f"/gradio_api/file={path}")
        assert refused.value.code in {403, 404}


def page_bytes(served: Demo, path: str) -> bytes:
    with urllib.request.urlopen(served.address + path, timeout=60) as answer:
        return bytes(answer.read())


def test_data_that_is_gone_is_told_with_the_way_out(tmp_path: Path) -> None:
    bundle = clip_bundle(tmp_path)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="--pictures SOURCE"):
        demo(bundle, port=free_port())


def test_the_command_serves_and_ends(tiny_clip: Bundle, tmp_path: Path) -> None:
    port = free_port()
    code = "from kit.cli import main; main()"
    words = [sys.executable, "-c", code, "demo", str(tiny_clip.folder), "--port", str(port)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert b"Tiny" in answer.read()
        running.send_signal(2)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir()), "it left something where it was started"


def test_it_listens_here_alone(clip_demo: Demo) -> None:
    assert clip_demo.address.startswith("http://127.0.0.1:")
    assert clip_demo.server.server_name == "127.0.0.1"
    assert str(clip_demo) == clip_demo.address
    assert f'<iframe src="{clip_demo.address}"' in clip_demo._repr_html_()
    assert clip_demo.server.max_file_size == 10_000_000

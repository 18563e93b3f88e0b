"""A bundle is whole or not there, loads alone and anywhere, and says what differs."""

import json
import math
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from dual_encoders import fresh, noise_pictures

from kit.adapters import bundle as bundles
from kit.adapters.bundle import data_use, open_bundle, save_bundle
from kit.data.sources import load_rows
from kit.errors import BundleError, ResultError
from kit.manifest import SCHEMA, read
from kit.models.load import load_dual_encoder
from kit.result import Measurement

TEXTS = ["grinning face", "a very long name of an airplane that lands", "Hund"]


def vectors(encoder):
    with torch.no_grad():
        pixels = torch.stack([encoder.preprocess(picture.open()) for picture in noise_pictures(2, size=60)])
        return encoder.encode_image(pixels), encoder.encode_text(encoder.tokenize(TEXTS))


def close(found, expected, atol=1e-5):
    return all(np.allclose(a, b, atol=atol) for a, b in zip(found, expected, strict=True))


def hidden(folder):
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


@pytest.fixture
def saved(tiny, tmp_path):
    return save_bundle(tmp_path / "out" / "clip", tiny, name="Tiny", parameters={"lr": 0.1})


def test_what_is_saved_is_loaded(saved, tiny):
    again = open_bundle(saved.folder)
    assert again.manifest == saved.manifest
    assert again.manifest.digest() == saved.manifest.digest()
    loaded = again.load()
    assert loaded.digest() == tiny.digest()
    assert close(vectors(loaded), vectors(tiny), atol=1e-6)
    assert str(again) == str(saved.folder)
    assert hidden(saved.folder.parent) == []


def test_others_may_read_it(saved):
    assert stat.S_IMODE(saved.folder.stat().st_mode) == 0o755
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o044 == 0o044 for file in saved.folder.iterdir())


def test_a_moved_folder_loads(saved, tiny, tmp_path):
    moved = tmp_path / "else where"
    shutil.move(saved.folder, moved)
    for encoder in (
        open_bundle(moved).load(),
        load_dual_encoder(f"bundle:{moved}"),
        load_dual_encoder(f"local-dir:{moved}"),
    ):
        assert close(vectors(encoder), vectors(tiny), atol=1e-6)


@pytest.mark.weights
def test_open_clip_alone_opens_it(stitched, tmp_path):
    encoder = fresh(stitched)
    with torch.no_grad():
        encoder.clip.visual.head.get_submodule("proj").weight.add_(0.01)  # as trained
    made = save_bundle(tmp_path / "made", encoder, name="Emoji by their names")
    assert not [file for file in made.folder.glob("*.json") if str(stitched.text_folder) in file.read_text("utf-8")]
    moved = tmp_path / "moved"
    shutil.move(made.folder, moved)
    for number, picture in enumerate(noise_pictures(2, size=60)):
        (tmp_path / f"{number}.png").write_bytes(picture.read())
    code = textwrap.dedent(f"""
        import sys
        sys.modules["kit"] = None
        import numpy, open_clip, torch
        from PIL import Image
        model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
        tokenizer = open_clip.get_tokenizer("local-dir:.")
        model.eval()
        with torch.no_grad():
            pixels = torch.stack([preprocess(Image.open(f"../{{n}}.png").convert("RGB")) for n in (0, 1)])
            image = model.encode_image(pixels, normalize=True)
            text = model.encode_text(tokenizer({TEXTS!r}), normalize=True)
        numpy.savez("../found.npz", image=image, text=text)
    """)
    empty = tmp_path / "empty-home"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(empty), "KIT_HOME": str(empty)}
    done = subprocess.run([sys.executable, "-c", code], cwd=moved, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert close((found["image"], found["text"]), vectors(encoder))
    assert close((found["image"], found["text"]), vectors(open_bundle(moved).load()))
    assert open_bundle(moved).manifest.licences() == ("Apache-2.0",)


@pytest.mark.weights
def test_openmojis_attribution_reaches_the_card(tiny, tmp_path):
    rows = load_rows("openmoji", split="train", limit=5)
    use = data_use(rows)
    assert (use.source, use.rows, use.split, use.digest) == ("openmoji", 5, "train", rows.digest())
    made = save_bundle(
        tmp_path / "b", tiny, name="x", data=(use,), measurements={"r": Measurement(0.5, "share", 9, 0.4, 0.6)}
    )
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    assert rows.attribution in text
    assert "CC-BY-SA-4.0" in text
    assert "| r | 0.5 share | 0.4 – 0.6 (95%) | 9 |" in text


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_config.json", "README.md"])
def test_a_flipped_bit_names_its_file(saved, file):
    path = saved.folder / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError, match=rf"(?s){file}: differs from what was saved.*Fix: copy the folder again"):
        open_bundle(saved.folder)


def test_a_missing_file_and_a_flipped_bit_are_one_error(saved):
    (saved.folder / "README.md").unlink()
    (saved.folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(BundleError) as caught:
        open_bundle(saved.folder)
    assert len(caught.value.faults) == 2


def test_a_bundle_of_a_newer_kit(saved):
    path = saved.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA + 1}))
    with pytest.raises(BundleError, match="schema 2 is newer than this kit reads"):
        open_bundle(saved.folder)


def test_an_older_bundle_is_replaced_and_nothing_else_is(saved, tiny, tmp_path):
    other = save_bundle(saved.folder, tiny, name="Second")
    assert read(saved.folder).name == "Second"
    assert other.manifest.digest() != saved.manifest.digest()
    assert hidden(saved.folder.parent) == []
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    with pytest.raises(BundleError, match=r"(?s)thesis: is there already, and is no bundle.*choose another folder"):
        save_bundle(tmp_path / "thesis", tiny, name="x")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "words"


@pytest.mark.parametrize("place", ["_write_model", "card", "write", "_put"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["stop", "full"])
def test_a_failed_save_leaves_the_older_bundle_and_no_half(saved, tiny, monkeypatch, place, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(bundles, place, fail)
    with pytest.raises((KeyboardInterrupt, BundleError)):
        save_bundle(saved.folder, tiny, name="Second")
    assert open_bundle(saved.folder).manifest == saved.manifest
    with pytest.raises((KeyboardInterrupt, BundleError)):
        save_bundle(saved.folder.parent / "new", tiny, name="New")
    assert [entry.name for entry in saved.folder.parent.iterdir()] == ["clip"]


def test_a_failed_exchange_puts_the_older_bundle_back(saved, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        bundles._put(tmp_path / "nothing here", saved.folder)
    assert open_bundle(saved.folder).manifest == saved.manifest
    assert hidden(saved.folder.parent) == []


SAVE = """
import resource, sys
from kit.adapters.bundle import save_bundle
from kit.errors import BundleError
from kit.models.load import load_dual_encoder
encoder = load_dual_encoder(f"local-dir:{sys.argv[1]}", device="cpu")
print("ready", flush=True)
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_bundle(sys.argv[2], encoder, name="x")
    except BundleError as error:
        print(error)
    sys.exit()
while True:
    save_bundle(sys.argv[2], encoder, name="x")
"""


def test_a_disk_that_takes_no_more_is_one_clear_error(tiny_folder, tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", SAVE, str(tiny_folder), str(tmp_path / "out" / "clip"), "full"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert "Fix: free some space" in done.stdout
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.soak
def test_killed_saves_leave_a_whole_bundle(tiny_folder, tmp_path):
    target = tmp_path / "out" / "clip"
    command = [sys.executable, "-c", SAVE, str(tiny_folder), str(target), "loop"]
    for number in range(6):
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout.readline() == "ready\n"
        time.sleep(0.6 + 0.037 * number)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert open_bundle(target).manifest.name == "x"
    bundles._recover(target)
    assert [entry.name for entry in target.parent.iterdir()] == ["clip"]


def killed_between_the_renames(saved, work_name):
    """Kill a process that has moved the older bundle aside; return the process's number."""
    pid = os.fork()
    if pid == 0:
        work = saved.folder.parent / work_name.format(os.getpid())
        shutil.copytree(saved.folder, work)
        replace = Path.replace

        def replace_and_die(path, to):
            replace(path, to)
            os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = replace_and_die
        bundles._put(work, saved.folder)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    return pid


def test_a_save_killed_in_the_exchange_is_undone_by_opening(saved):
    pid = killed_between_the_renames(saved, ".clip-{}-a1b2c3d4")
    assert sorted(hidden(saved.folder.parent)) == [f".clip-{pid}-a1b2c3d4", f".clip-{pid}-a1b2c3d4-old"]
    assert not saved.folder.exists()
    assert open_bundle(saved.folder).manifest == saved.manifest
    assert hidden(saved.folder.parent) == []


def test_a_save_killed_in_the_exchange_is_undone_by_saving(saved, tiny, monkeypatch):
    killed_between_the_renames(saved, ".clip-{}-a1b2c3d4")
    monkeypatch.setattr(bundles, "_write_model", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(BundleError, match="No space left"):
        save_bundle(saved.folder, tiny, name="Second")
    assert read(saved.folder) == saved.manifest  # the failed save, too, left the older one
    assert hidden(saved.folder.parent) == []


def test_only_what_dead_saves_of_this_bundle_left_is_swept(saved, tiny):
    done = subprocess.Popen(["true"])
    done.wait()
    dead, alive = done.pid, os.getpid()
    others = [f".clip-{alive}-a1b2c3d4", f".clip-2-{dead}-a1b2c3d4", ".clip-notes", f".other-{dead}-a1b2c3d4"]
    for name in (*others, f".clip-{dead}-a1b2c3d4", f".clip-{dead}-a_b2c3d4-old"):
        (saved.folder.parent / name).mkdir()
        (saved.folder.parent / name / "manifest.json").write_text("{}")
    save_bundle(saved.folder, tiny, name="Second")
    assert read(saved.folder).name == "Second"
    assert sorted(hidden(saved.folder.parent)) == sorted(others)


def test_parameters_must_be_json_values_and_all_that_are_not_are_named(tiny, tmp_path):
    with pytest.raises(BundleError) as caught:
        save_bundle(tmp_path / "b", tiny, name="x", parameters={"lr": 0.1, "path": tmp_path, "loss": math.nan})
    assert [fault.where for fault in caught.value.faults] == ["parameters.path", "parameters.loss"]
    assert list(tmp_path.iterdir()) == []


def test_measurements_are_checked_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(ResultError, match="must be a finite number"):
        save_bundle(tmp_path / "b", tiny, name="x", measurements={"r": Measurement(math.nan, "share", 1)})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"(?s)cannot be written.*choose another folder"):
        save_bundle(tmp_path / "file" / "b", tiny, name="x")

"""Bundles of vision-language models: they open as they were, PEFT opens them without kit, or they say what differs."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from stitched_models import tiny_stitch, write_language

from kit.adapters.bundle import open_bundle, save_bundle
from kit.adapters.language import adapt_language
from kit.adapters.llama_adapter import add_llama_adapter
from kit.errors import BundleError
from kit.manifest import write

PICTURE = Image.new("RGB", (40, 30), "red")
KINDS = {"prefix": {"entry_layer": 0}, "middle": {"entry_layer": 2}, "prompts": {"prompted": True}}


def trained(vision, language, kind, **options):
    """Return a stitched model with adapters that are no longer what they were at first."""
    model = tiny_stitch(vision, language, **KINDS[kind], **options)
    if kind == "prompts":
        add_llama_adapter(model.language, layers=2, tokens=4, rank=3)
        model.projector.requires_grad_(True)
    else:
        adapt_language(model, rank=4)
    generator = torch.Generator().manual_seed(1)
    changing = [parameter for parameter in model.model.parameters() if parameter.requires_grad]
    for tensor in [*changing, model.projector.mean]:  # the last is a buffer, which calibration sets
        tensor.data.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
    model.model.generation_config.max_new_tokens = 5
    return model


@torch.no_grad()
def logits(model):
    """Return a model's logits with a picture and without one."""
    processor = model.processor
    seen = processor(text=[f"{processor.image_token}What colour?"], images=[PICTURE], return_tensors="pt")
    text = processor(text=["What colour?"], return_tensors="pt")
    return model.model(**seen).logits.float(), model.model(**text).logits.float()


def save(folder, model, **more):
    return save_bundle(folder, model, name="Seeing", parameters={"rank": 4}, **more)


@pytest.fixture(scope="module")
def models(tiny_vision, tiny_language):
    return {kind: trained(tiny_vision, tiny_language, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    return {kind: save(root / kind, model) for kind, model in models.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_as_it_was(models, saved, kind):
    again = open_bundle(saved[kind].folder).load(device="cpu")
    for found, expected in zip(logits(again), logits(models[kind]), strict=True):
        assert torch.equal(found, expected)
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    assert not again.model.training
    assert again.name == f"bundle:{saved[kind].folder}"
    assert [base.text for base in again.bases] == [base.source for base in saved[kind].manifest.bases]
    asked = again.processor(text=[f"{again.processor.image_token}What?"], images=[PICTURE], return_tensors="pt")
    written = [model.model.generate(**asked, do_sample=False) for model in (again, models[kind])]
    assert torch.equal(*written)
    assert again.model.generation_config.max_new_tokens == 5


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_model_says_something_else(tiny_vision, tiny_language, models, kind):
    plain = tiny_stitch(tiny_vision, tiny_language, **KINDS[kind])
    for found, expected in zip(logits(plain), logits(models[kind]), strict=True):
        assert (found - expected).abs().max() > 0.01


def test_a_child_of_a_bundle_is_whole_and_names_its_bases(saved, models, tmp_path):
    parent = saved["middle"]
    child = save(tmp_path / "child", parent.load(device="cpu"), parents={"Seeing": parent.manifest.digest()})
    for found, expected in zip(logits(child.load(device="cpu")), logits(models["middle"]), strict=True):
        assert torch.equal(found, expected)
    assert child.manifest.bases == parent.manifest.bases
    assert child.manifest.parents == {"Seeing": parent.manifest.digest()}


def test_it_holds_what_was_trained_and_no_base(saved, tiny_vision, tiny_language):
    manifest, folder = saved["middle"].manifest, saved["middle"].folder
    assert manifest.kind == "vision-language"
    assert [base.source for base in manifest.bases] == [f"local-dir:{tiny_vision}", f"local-dir:{tiny_language}"]
    weights = {name for name in manifest.files if name.endswith((".safetensors", ".bin", ".pt"))}
    assert weights == {"projector.safetensors", "adapter/adapter_model.safetensors"}
    assert "adapter/README.md" not in manifest.files  # PEFT's empty form
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_language)
    assert "llama_adapter.safetensors" in saved["prompts"].manifest.files
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {(folder / "README.md").stat().st_mode & 0o777}  # readable by all who may read the folder


ALONE = """
    import json, sys
    sys.modules["kit"] = None  # importing it fails
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    for bundle, asked in (sys.argv[2:4], sys.argv[4:6]):
        base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        model = PeftModel.from_pretrained(base, f"{bundle}/adapter").eval().requires_grad_(False)
        asked = load_file(asked)
        torch.testing.assert_close(model(asked["text_ids"]).logits, asked["text_logits"], rtol=1e-4, atol=1e-4)
        config, projector = json.load(open(f"{bundle}/config.json")), load_file(f"{bundle}/projector.safetensors")
        if config["entry_layer"] == 0:  # the card's words, done
            even = (asked["features"] - projector["mean"]) / projector["deviation"]
            normed = torch.nn.functional.layer_norm(
                even, even.shape[-1:], projector["norm.weight"], projector["norm.bias"]
            )
            tokens = normed @ projector["layers.0.weight"].T + projector["layers.0.bias"] + projector["place"]
            tokens = tokens * config["projector"]["norm"] / config["projector"]["width"] ** 0.5
            embeds = model.get_input_embeddings()(asked["ids"]).clone()
            embeds[asked["ids"] == config["image_token_id"]] = tokens[0]
            found = model(inputs_embeds=embeds).logits
            torch.testing.assert_close(found, asked["logits"], rtol=1e-4, atol=1e-4)
            print("with pictures")
        print("done")
    assert not [name for name in sys.modules if name.startswith("kit.")]
"""


def test_peft_alone_opens_it_without_kit(models, saved, tiny_language, tmp_path):
    words = [tiny_language]
    for kind in ("prefix", "middle"):
        model, processor = models[kind], models[kind].processor
        seen = processor(text=[f"{processor.image_token}What colour?"], images=[PICTURE], return_tensors="pt")
        asked = {"ids": seen["input_ids"], "features": model.vision(seen["pixel_values"]).contiguous()}
        asked["text_ids"] = processor(text=["What colour?"], return_tensors="pt")["input_ids"]
        asked["logits"], asked["text_logits"] = logits(model)
        save_file(asked, tmp_path / kind)
        words += [saved[kind].folder, tmp_path / kind]
    command = [sys.executable, "-c", textwrap.dedent(ALONE), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["with pictures", "done", "done", ""]


def test_a_base_that_differs_is_refused_whichever_it_is(models, tiny_vision, tiny_language, tmp_path):
    vision = shutil.copytree(tiny_vision, tmp_path / "clip")
    language = shutil.copytree(tiny_language, tmp_path / "lm")
    bundle = save(tmp_path / "bundle", trained(vision, language, "middle"))
    write_language(language, seed=1)
    with pytest.raises(BundleError, match=r"lm: is not what the bundle was trained on: content \w+…, the bundle's"):
        bundle.load(device="cpu")
    shutil.rmtree(vision)
    with pytest.raises(BundleError) as caught:
        bundle.load(device="cpu")
    assert ["no such folder" in caught.value.faults[0].what, len(caught.value.faults)] == [True, 2]
    moved_to = {
        f"local-dir:{vision}": f"local-dir:{tiny_vision}",
        f"local-dir:{language}": f"local-dir:{tiny_language}",
    }
    for found, expected in zip(logits(bundle.load(bases=moved_to)), logits(models["middle"]), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(BundleError, match=r"'local-dir:/nowhere' is no base of the bundle"):
        bundle.load(bases={"local-dir:/nowhere": "smollm2-135m"})


def test_a_bundle_opens_from_any_folder(tiny_vision, tiny_language, tmp_path, monkeypatch):
    from kit.models.load_vision_language import load_vision_language

    shutil.copytree(tiny_language, tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    model = load_vision_language(f"stitch:local-dir:{tiny_vision}+local-dir:lm", device="cpu")
    bundle = save(tmp_path / "bundle", adapt_language(model, rank=2))
    monkeypatch.chdir("/")
    assert bundle.manifest.bases[1].source == f"local-dir:{tmp_path / 'lm'}"
    bundle.load(device="cpu")


def rewritten(saved, target, change):
    """Return a copy of a bundle in which files were changed and the manifest made to agree."""
    folder = shutil.copytree(saved.folder, target)
    change(folder)
    (folder / "manifest.json").unlink()
    write(folder, saved.manifest)
    return open_bundle(folder)


def _layout(**changes):
    def change(folder):
        path = folder / "vision_language.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _narrow(name):
    def change(folder):
        state = {key: tensor[..., :1].contiguous() for key, tensor in load_file(folder / name).items()}
        save_file(state, folder / name)

    return change


def test_pictures_are_prepared_as_the_bundle_says_whatever_the_libraries_do_now(saved, tmp_path):
    def darker(folder):
        for name, values in (("config.json", ("vision", "pixels")), ("processor_config.json", ("pixels",))):
            content = json.loads((folder / name).read_text())
            inner = content
            for value in values:
                inner = inner[value]
            inner["open_clip"]["mean"] = [0.9, 0.9, 0.9]
            (folder / name).write_text(json.dumps(content))

    again = rewritten(saved["middle"], tmp_path / "copy", darker).load(device="cpu")
    before = saved["middle"].load(device="cpu")
    assert not torch.equal(again.vision.preprocess(PICTURE), before.vision.preprocess(PICTURE))
    assert torch.equal(again.vision.preprocess(PICTURE), again.processor.image_processor.one(PICTURE))


OTHER = {"vision": "0" * 64, "language": "0" * 64, "skipped": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_layout(weights=OTHER), r"(?s)the vision tower's weights differ.*the language tower's weights differ"),
        (_layout(layout=3), r"(?s)is from a newer kit.*Fix: pip install -U"),
        (_layout(layout=None), "cannot be read"),
        (lambda folder: (folder / "vision_language.json").unlink(), "cannot be read"),
        (_narrow("projector.safetensors"), "does not fit the model"),
        (_narrow("adapter/adapter_model.safetensors"), "does not fit the model"),
        (lambda folder: shutil.rmtree(folder / "adapter"), "does not fit the model"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(saved, tmp_path, change, said):
    with pytest.raises(BundleError, match=said):
        rewritten(saved["middle"], tmp_path / "copy", change).load(device="cpu")


def test_prompts_of_another_size_are_refused(saved, tmp_path):
    changed = rewritten(saved["prompts"], tmp_path / "copy", _narrow("llama_adapter.safetensors"))
    with pytest.raises(BundleError, match="does not fit the model"):
        changed.load(device="cpu")


def test_what_was_trained_and_would_not_be_saved_is_an_error(tiny_vision, tiny_language, tmp_path):
    model = adapt_language(tiny_stitch(tiny_vision, tiny_language, entry_layer=2), rank=2)
    model.model.get_input_embeddings().weight.requires_grad_(True)
    model.language.add_adapter("second", model.language.peft_config["default"])
    with pytest.raises(BundleError) as caught:
        save(tmp_path / "bundle", model)
    said = str(caught.value)
    assert "has 2 adapters, and a bundle holds one in a place" in said
    assert "embed_tokens.weight can be trained, and a bundle holds adapters and the projector only" in said
    assert list(tmp_path.iterdir()) == []
    model.language.delete_adapter("second")
    model.model.get_input_embeddings().weight.requires_grad_(False)
    model.language.merge_adapter()
    with pytest.raises(BundleError, match=r"(?s)its adapter is merged into the base's weights.*unmerge_adapter"):
        save(tmp_path / "bundle", model)
    model.language.unmerge_adapter()


def test_a_precision_is_kept_and_can_be_changed(tiny_vision, tiny_language, tmp_path):
    model = trained(tiny_vision, tiny_language, "middle", dtype="bfloat16")
    bundle = save(tmp_path / "bundle", model)
    again = bundle.load(device="cpu")
    assert next(again.language.parameters()).dtype == torch.bfloat16
    for found, expected in zip(logits(again), logits(model), strict=True):
        assert torch.equal(found, expected)
    finer = bundle.load(device="cpu", dtype="float32")
    torch.testing.assert_close(logits(finer)[1], logits(model)[1], rtol=0.1, atol=0.1)
    with pytest.raises(BundleError, match=r"'bfloat1' is unknown\. Did you mean 'bfloat16'"):
        bundle.load(dtype="bfloat1")


def test_a_clip_bundle_takes_no_options_and_a_stitch_only_its_own(tiny, saved, tmp_path):
    with pytest.raises(BundleError, match="a dual encoder takes no device"):
        save_bundle(tmp_path / "clip", tiny, name="x").load(device="cpu")
    with pytest.raises(BundleError, match="a stitched model takes no trust_remote_code"):
        saved["middle"].load(trust_remote_code=True)

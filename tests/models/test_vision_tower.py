"""Vision towers: the networks' own features, on a grid, once per picture."""

import json
import shutil

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from PIL import Image
from tiny_models import VISION

from kit.errors import ModelError
from kit.models.activations import ActivationStore
from kit.models.vision_tower import VisionTower, encode_pictures, load_vision_tower


def on_grid(maps, grid):
    """Return feature maps (n, c, h, w) as means over the cells of a grid that divides them, row by row."""
    size = maps.shape[-1] // grid
    cells = [
        maps[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size].mean((2, 3))
        for row in range(grid)
        for column in range(grid)
    ]
    return torch.stack(cells, 1)


def watched(module, found):
    return module.register_forward_hook(lambda _, __, output: found.append(output))


@pytest.fixture(scope="module")
def packaged():
    return load_vision_tower("efficientnet-lite0")


@pytest.mark.weights
def test_the_packaged_tower_reads_five_depths_of_the_network_that_stitched_clips_have(packaged, stitched):
    pixels = torch.stack([packaged.preprocess(picture.open()) for picture in noise_pictures(3)])
    assert torch.equal(pixels[0], stitched.preprocess(noise_pictures(1)[0].open()))
    trunk, seen = stitched.clip.visual.trunk, []
    handles = [watched(trunk.blocks[number], seen) for number in (1, 2, 4, 6)] + [watched(trunk.bn2, seen)]
    with torch.no_grad():
        trunk(pixels)
        features = packaged(pixels)
    for handle in handles:
        handle.remove()
    assert features.shape == (3, packaged.tokens, packaged.width) == (3, 4, 24 + 40 + 112 + 320 + 1280)
    assert features.dtype == torch.float32
    start = 0
    for maps in seen:
        part = features[..., start : start + maps.shape[1]]
        start += maps.shape[1]
        even = maps.shape[-1] % 2 == 0
        # Seven by seven maps have a middle row and column, which adaptive pooling gives to both sides.
        halves = maps if even else maps[..., [0, 1, 2, 3, 3, 4, 5, 6]][:, :, [0, 1, 2, 3, 3, 4, 5, 6]]
        torch.testing.assert_close(part, on_grid(halves, 2), rtol=1e-3, atol=2e-4)
    assert start == packaged.width


@pytest.mark.weights
def test_where_a_colour_is_can_be_read_off_the_order_of_tokens(packaged):
    picture = Image.new("RGB", (64, 64), "white")
    plain = packaged(packaged.preprocess(picture)[None])[0]
    for place, corner in enumerate([(0, 0), (32, 0), (0, 32), (32, 32)]):  # rows first
        marked = picture.copy()
        marked.paste("red", (*corner, corner[0] + 32, corner[1] + 32))
        moved = (packaged(packaged.preprocess(marked)[None])[0] - plain)[:, :24].norm(dim=-1)
        assert int(moved.argmax()) == place


@pytest.mark.weights
def test_the_packaged_tower_can_be_rebuilt_from_its_settings_on_no_device_too(packaged):
    again = VisionTower(json.loads(json.dumps(packaged.settings)))
    assert again.digest() != packaged.digest()
    again.load_state_dict(packaged.state_dict())
    assert again.digest() == packaged.digest()
    with torch.device("meta"):  # as transformers builds what it is about to fill
        empty = VisionTower(packaged.settings)
    assert empty.state_dict().keys() == packaged.state_dict().keys()


def test_it_is_frozen_and_stays_in_evaluation(tiny_vision):
    tower = load_vision_tower(f"local-dir:{tiny_vision}", grid=4)
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    features = tower(torch.randn(5, 3, 32, 32))
    assert not features.requires_grad
    assert features.shape == (5, 16, 32)


def test_open_clips_patches_are_those_of_its_last_layer(tiny, tiny_vision):
    tower, seen = load_vision_tower(f"local-dir:{tiny_vision}", grid=2), []
    visual, pixels = tiny.clip.visual, torch.randn(3, 3, 32, 32)
    handle = watched(visual.transformer, seen)
    visual(pixels)
    handle.remove()
    patches = visual.ln_post(seen[0])[:, 1:]  # without the class token
    maps = patches.transpose(1, 2).reshape(3, 32, 4, 4)
    torch.testing.assert_close(tower(pixels), on_grid(maps, 2), rtol=1e-5, atol=1e-5)
    assert tower.settings["network"]["open_clip"]["vision_cfg"]["patch_size"] == 8
    again = VisionTower(tower.settings)
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(pixels), tower(pixels))
    picture = noise_pictures(1)[0].open()
    assert torch.equal(tower.preprocess(picture), tiny.preprocess(picture))


@pytest.mark.weights
def test_a_clip_on_a_timm_tower_gives_that_towers_last_features(stitched, tmp_path):
    from kit.adapters.bundle import save_bundle

    save_bundle(tmp_path / "clip", stitched, name="x")
    tower, pixels = load_vision_tower(f"local-dir:{tmp_path / 'clip'}", grid=7), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps = stitched.clip.visual.trunk.forward_features(pixels)
    torch.testing.assert_close(tower(pixels), maps.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
    again = VisionTower(json.loads(json.dumps(tower.settings)))
    again.load_state_dict(tower.state_dict())
    assert again.digest() == tower.digest()


def _clip(hf):
    return hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)), 1


def _siglip(hf):
    return hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)), 0


def _vit(hf):
    return hf.ViTModel(hf.ViTConfig(**VISION)), 1


def _dinov2(hf):
    return hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VISION, num_register_tokens=4)), 5


def _resnet(hf):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return hf.ResNetModel(hf.ResNetConfig(**sizes, downsample_in_first_stage=False)), None


def save_vision(folder, build):
    import transformers as hf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, skipped = build(hf)
    model.eval().save_pretrained(folder)
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pictures.save_pretrained(folder)
    return model, skipped


@pytest.mark.parametrize("build", [_clip, _siglip, _vit, _dinov2, _resnet])
def test_vision_models_of_transformers_give_their_patches(build, tmp_path):
    model, skipped = save_vision(tmp_path, build)
    tower = load_vision_tower(f"local-dir:{tmp_path}", grid=2)
    pixels = torch.stack([tower.preprocess(picture.open()) for picture in noise_pictures(2)])
    with torch.no_grad():
        hidden = model(pixel_values=pixels).last_hidden_state
    maps = hidden if skipped is None else hidden[:, skipped:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(tower(pixels), on_grid(maps, 2), rtol=1e-5, atol=1e-6)
    assert tower.width == maps.shape[1]
    again = VisionTower(json.loads(json.dumps(tower.settings)))
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(pixels), tower(pixels))
    assert torch.equal(again.preprocess(noise_pictures(1)[0].open()), pixels[0])


def test_a_model_for_pictures_and_text_gives_its_vision_tower(tmp_path):
    import transformers as hf

    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hf.CLIPModel(hf.CLIPConfig(text_config={**text, "vocab_size": 40}, vision_config=VISION)).eval()
    model.save_pretrained(tmp_path)
    save_vision(tmp_path / "other", _clip)
    shutil.copy(tmp_path / "other" / "preprocessor_config.json", tmp_path)
    tower, pixels = load_vision_tower(f"local-dir:{tmp_path}", grid=4), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(tower(pixels), expected, rtol=1e-5, atol=1e-6)


def test_features_are_computed_once_and_are_those_of_the_tower(tiny_vision, tmp_path):
    tower, store = load_vision_tower(f"local-dir:{tiny_vision}"), ActivationStore(tmp_path)
    pictures = noise_pictures(5)
    found = encode_pictures(tower, [*pictures, pictures[0]], store)
    assert (found.computed, len(found), found.width) == (5, 6, 4 * 32)
    with torch.no_grad():
        expected = tower(torch.stack([tower.preprocess(picture.open()) for picture in pictures]))
    torch.testing.assert_close(found.all(), torch.cat([expected, expected[:1]]))
    assert found.shards[0].dtype == np.float32
    assert encode_pictures(load_vision_tower(f"local-dir:{tiny_vision}"), pictures[::-1], store).computed == 0
    finer = encode_pictures(load_vision_tower(f"local-dir:{tiny_vision}", grid=4), pictures, store)
    assert finer.computed == 5
    assert finer.all().shape == (5, 16, 32)


def test_other_weights_and_other_preprocessing_have_other_features(tiny_vision):
    first, second = (load_vision_tower(f"local-dir:{tiny_vision}") for _ in range(2))
    assert first.digest() == second.digest()
    second.network.visual.conv1.weight.data[0, 0, 0, 0] += 1
    assert first.digest() != second.digest()
    third = VisionTower({**first.settings, "pixels": {"open_clip": {"size": [32, 32]}}}, first.network)
    assert first.digest() != third.digest()


def _lacks(name):
    def change(folder):
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        save_file({key: value for key, value in state.items() if name not in key}, folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _lacks("layers.1.mlp.fc1.weight"),
            r"(?s)its checkpoint lacks .*layers.1.mlp.fc1.weight.*Fix: check the files",
        ),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "its image processor cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "its weights cannot be loaded"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(change, said, tmp_path):
    save_vision(tmp_path, _clip)
    change(tmp_path)
    with pytest.raises(ModelError, match=said):
        load_vision_tower(f"local-dir:{tmp_path}")


def test_what_is_no_vision_tower_is_refused(tiny_language, tiny_vision, tmp_path):
    with pytest.raises(ModelError, match=r"(?s)is no vision tower.*Allowed: efficientnet-lite0, open_clip"):
        load_vision_tower("smollm2-135m")
    folder = shutil.copytree(tiny_language, tmp_path / "llama")
    save_vision(tmp_path / "other", _clip)
    shutil.copy(tmp_path / "other" / "preprocessor_config.json", folder)
    with pytest.raises(ModelError, match="is a 'llama' model, which has no vision tower that kit can read"):
        load_vision_tower(f"local-dir:{folder}")
    with pytest.raises(ModelError, match=r"(?s)grid: 5, but the tower's features are a grid of 4 by 4.*choose 1 to 4"):
        load_vision_tower(f"local-dir:{tiny_vision}", grid=5)
    for grid in (0, 1.5, True):
        with pytest.raises(ModelError, match="must be a whole number of at least 1"):
            load_vision_tower(f"local-dir:{tiny_vision}", grid=grid)

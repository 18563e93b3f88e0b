"""A tower's parts put together are the tower, whatever block they are parted at; what cannot be parted is found out."""

from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
from open_clip.hf_model import MeanPooler
from open_clip.transformer import TextTransformer
from torch import nn
from transformers import BertConfig, BertModel

from kit.models.cut import image_features, text_features
from kit.models.tower_blocks import Blocks, fits, image_blocks, text_blocks

PIXELS = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
# The order by length, 1 2 0, is not its own inverse.
TOKENS = torch.tensor([[5, 7, 8, 9, 4, 6, 3, 0], [5, 3, 0, 0, 0, 0, 0, 0], [5, 7, 9, 3, 0, 0, 0, 0]])


def network(name):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=0).eval()


class Bert(nn.Module):
    """What open_clip puts around a Hugging Face tower, with a tiny one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
        self.config = BertConfig(**sizes, vocab_size=20, pad_token_id=0)
        self.transformer = BertModel(self.config, add_pooling_layer=False).eval()
        self.pooler, self.proj = MeanPooler(), nn.Identity()

    def forward(self, tokens):
        mask = (tokens != 0).long()
        return self.proj(self.pooler(self.transformer(input_ids=tokens, attention_mask=mask), mask))


def own_text(**settings):
    torch.manual_seed(0)
    sizes = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 3, "output_dim": 6}
    tower = TextTransformer(**sizes, **settings).eval()
    return SimpleNamespace(text=tower)


def joined(blocks, run, given, *more):
    """Return the largest difference between the tower and its two parts, over all places to part it at."""
    with torch.no_grad():
        whole = run(given)
        parts = [
            blocks.above(number)(blocks.entering(number, given, run), *more) for number in range(len(blocks.units) + 1)
        ]
    return max(float((part - whole).abs().max()) for part in parts)


@pytest.mark.parametrize(
    ("name", "count"), [("test_efficientnet", 5), ("test_vit", 6), ("test_convnext", 4), ("test_mambaout", 4)]
)
def test_timm_networks(name, count):
    trunk = network(name)
    blocks = image_blocks(None, trunk)
    run = partial(image_features, None, trunk)
    assert fits(blocks, PIXELS, run)
    assert len(blocks.units) == count
    assert joined(blocks, run, PIXELS) < 1e-4


def test_open_clips_own_towers(tiny):
    pixels = torch.randn(2, 3, 32, 32)
    blocks = image_blocks(tiny.clip.visual, None)
    assert len(blocks.units) == 2
    assert joined(blocks, partial(image_features, tiny.clip.visual, None), pixels) < 1e-5
    tokens = tiny.tokenize(["a dog", "two cats on a mat"])
    assert joined(text_blocks(tiny.clip), partial(text_features, tiny.clip), tokens, tokens) < 1e-5


@pytest.mark.parametrize(
    "settings", [{}, {"pool_type": "first", "no_causal_mask": True}, {"pool_type": "eos", "eos_id": 3}], ids=str
)
def test_text_towers_of_their_own(settings):
    clip = own_text(**settings)
    assert joined(text_blocks(clip), partial(text_features, clip), TOKENS, TOKENS) < 1e-5


def test_hugging_faces_texts_of_all_lengths_in_any_order_and_room():
    clip = SimpleNamespace(text=Bert())
    blocks, run = text_blocks(clip), partial(text_features, clip)
    assert len(blocks.units) == 3
    assert joined(blocks, run, TOKENS, TOKENS) < 1e-5
    with torch.no_grad():
        alone = torch.cat([run(row[row != 0][None]) for row in TOKENS])
        hidden = blocks.entering(1, TOKENS, run)
        room = nn.functional.pad(hidden, (0, 0, 0, 5), value=1e3), nn.functional.pad(TOKENS, (0, 5))
        assert torch.allclose(blocks.above(1)(*room), alone, atol=1e-5), "what lies in padding is not looked at"


def test_what_lies_above_the_cut_is_not_computed(tiny):
    blocks = image_blocks(tiny.clip.visual, None)
    seen = []
    handle = blocks.units[1].register_forward_hook(lambda *_: seen.append(1))
    blocks.entering(1, torch.randn(1, 3, 32, 32), partial(image_features, tiny.clip.visual, None))
    handle.remove()
    assert not seen
    assert not blocks.units[1]._forward_pre_hooks


def test_the_upper_part_shares_parameters_and_has_none_of_the_input(tiny):
    own = {id(one): name for name, one in tiny.clip.visual.named_parameters()}
    found = {own[id(one)] for one in image_blocks(tiny.clip.visual, None).above(2).parameters()}
    assert found == {"ln_post.weight", "ln_post.bias"}
    trunk = network("test_vit")
    names = {id(one): name for name, one in trunk.named_parameters()}
    upper = image_blocks(None, trunk).above(4)
    found = {names[id(one)] for one in upper.parameters()}
    assert {name.split(".")[1] for name in found if name.startswith("blocks")} == {"4", "5"}
    assert not {name for name in found if name.startswith(("patch_embed", "cls_token", "pos_embed", "blocks.3"))}


class Remembers(nn.Module):
    """A tower whose head reads its pixels again."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Identity(), nn.ReLU())

    def forward(self, pixels):
        return self.blocks(self.stem(pixels)).mean((2, 3)) + pixels.mean((2, 3)) + 1


def test_a_tower_that_does_more_than_run_its_blocks_is_found_out():
    tower = Remembers()
    assert not fits(image_blocks(None, tower), PIXELS, partial(image_features, None, tower))
    masked = own_text(use_pad_mask=True, no_causal_mask=True, pool_type="last")
    assert not fits(text_blocks(masked), TOKENS, partial(text_features, masked), TOKENS)


def test_a_tower_that_nobody_knows_is_left_whole():
    visual = nn.Module()
    visual.trunk = network("test_resnet")
    blocks = image_blocks(visual, visual.trunk)
    assert blocks.units == []
    run = partial(image_features, visual, visual.trunk)
    assert torch.equal(blocks.entering(0, PIXELS, run), PIXELS)
    with torch.no_grad():
        assert torch.equal(blocks.above(0)(PIXELS), run(PIXELS))


def test_a_tower_that_never_runs_its_blocks_is_an_error():
    idle = Blocks([nn.Identity()], lambda _: nn.Identity())
    with pytest.raises(RuntimeError, match="does not run its blocks"):
        idle.entering(0, PIXELS, lambda pixels: pixels)

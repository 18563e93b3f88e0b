"""Two packaged towers in one model: each still says what it said alone."""

import pytest
import torch
from torch.nn import functional as F

from kit.data.sources import load_rows
from kit.errors import ModelError
from kit.models.load import load_dual_encoder
from kit.models.stitch import timm_names
from kit.parts.pull import get
from kit.parts.reference import parse

STITCH = "stitch:efficientnet-lite0+minilm-l6"
# What efficientnet_lite_pytorch 0.1.0, the architecture that the weights were published with, answers to the waves
# below: every 125th of its 1,000 logits. (Its features and those of the stitched tower differed by 4e-6.)
LOGITS = [-0.4140, 0.6716, -0.0206, 1.0525, -1.4001, 0.4591, 0.9796, -1.9700]


def waves():
    """Return an input that needs no file: a product of waves, shape (1, 3, 224, 224), in [-1, 1]."""
    steps = torch.arange(224.0)
    planes = [torch.outer(torch.sin(0.05 * (c + 1) * steps), torch.cos(0.03 * steps)) for c in range(3)]
    return torch.stack(planes).unsqueeze(0)


@pytest.mark.weights
def test_the_text_tower_is_sentence_transformers_minilm(stitched):
    from transformers import AutoModel, AutoTokenizer

    folder = get("minilm-l6")
    texts = ["A man is eating food.", "grinning face with smiling eyes", "Ein Hund", "x"]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        expected = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        found = stitched.encode_text(stitched.tokenize(texts))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def packaged():
    """The image weights as they come, in efficientnet_pytorch's names."""
    (file,) = get("efficientnet-lite0").glob("*.pth")
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.mark.weights
def test_every_packaged_image_weight_has_its_place(stitched, packaged):
    trunk = stitched.clip.visual.trunk
    renamed = timm_names(packaged, [len(stage) for stage in trunk.blocks])
    state = trunk.state_dict()
    assert renamed.keys() == state.keys()
    assert len(renamed) == len(packaged) - 2, "all but the classifier's weight and bias"
    for name, tensor in renamed.items():
        assert torch.equal(state[name], tensor), name
    assert state["bn1.running_var"].std() > 0.01, "statistics were loaded, not left at one"


@pytest.mark.weights
def test_the_image_tower_answers_as_the_network_it_was_published_as(stitched, packaged):
    with torch.no_grad():
        logits = stitched.clip.visual.trunk(waves()) @ packaged["_fc.weight"].T + packaged["_fc.bias"]
    assert logits[0, ::125].tolist() == pytest.approx(LOGITS, abs=1e-3)
    assert int(logits.argmax()) == 800
    assert float(logits.norm()) == pytest.approx(50.7831, abs=1e-2)


@pytest.mark.weights
def test_the_image_tower_sees_what_is_drawn(stitched, packaged):
    # ImageNet holds photographs, and most drawings confuse it (the banana is first of all a hook); these do not.
    classes = {"umbrella": 879, "banana": 954, "violin": 889}
    rows = [row for row in load_rows("openmoji", split="all") if row.text in classes]
    pixels = torch.stack([stitched.preprocess(row.picture.open()) for row in rows])
    with torch.no_grad():
        logits = stitched.clip.visual.trunk(pixels) @ packaged["_fc.weight"].T + packaged["_fc.bias"]
    assert len(rows) == len(classes)
    for row, best in zip(rows, logits.topk(5).indices.tolist(), strict=True):
        assert classes[row.text] in best, row.text


@pytest.mark.weights
def test_fresh_projections_follow_from_the_seed():
    def made(seed, **options):
        before = torch.random.get_rng_state()
        clip = load_dual_encoder(STITCH, device="cpu", seed=seed, **options).clip
        assert torch.equal(before, torch.random.get_rng_state()), "the caller's chance is untouched"
        return clip.visual.head.state_dict()["proj.weight"]

    one = made(1)
    assert torch.equal(one, made(1))
    assert not torch.equal(one, made(2, image_projection="linear"))


@pytest.mark.weights
def test_siglip_starts_where_its_paper_does():
    clip = load_dual_encoder(STITCH, device="cpu", objective="siglip", text_projection="mlp", embed_dim=64).clip
    assert clip.logit_bias.item() == -10
    assert clip.logit_scale.exp().item() == pytest.approx(10)


def test_all_option_faults_at_once():
    with pytest.raises(ModelError) as caught:
        load_dual_encoder(STITCH, image_projection="liner", text_projection="none!", objective="sigclip", dropout=1.0)
    text = str(caught.value)
    assert len(caught.value.faults) == 4
    assert "Did you mean 'linear'?" in text
    assert "Did you mean 'siglip'?" in text
    assert "dropout: must be a share of at least 0 and below 1, got 1.0" in text


def test_an_option_that_does_not_exist():
    with pytest.raises(ModelError, match=r"has no option 'image_project'\. Did you mean 'image_projection'\?"):
        load_dual_encoder(STITCH, image_project="mlp")


@pytest.mark.weights
def test_another_size_needs_a_text_projection():
    with pytest.raises(ModelError, match=r"(?s)embed_dim: 128, .* 384 numbers.*text_projection='linear'"):
        load_dual_encoder(STITCH, embed_dim=128)


def test_a_layer_that_is_no_layer():
    with pytest.raises(ModelError, match=r"'_pool\.weight' is no layer of this network"):
        timm_names({"_pool.weight": torch.zeros(1)}, [1])
    assert parse(STITCH, kind="model").parts == ("efficientnet-lite0", "minilm-l6")

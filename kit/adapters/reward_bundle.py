"""A reward model's bundle: the bundle of the model that it reads with, and the head beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kit.adapters.language_bundle import open_vision_language, write_vision_language
from kit.errors import BundleError
from kit.manifest import Manifest
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.reward import Reward, RewardTail

KIND = "reward"
HEAD = "reward.safetensors"


def write_reward(folder: Path, reward: Reward) -> None:
    """Write what was trained of a reward model, and how it is put together again, into an empty folder.

    Args:
        folder: The folder.
        reward: The reward model.

    Raises:
        BundleError: see ``write_vision_language``.
    """
    from safetensors.torch import save_file

    write_vision_language(folder, reward.cut.model)
    save_file({"weight": reward.tail.weight.detach().cpu().contiguous().clone()}, folder / HEAD)
    (folder / HEAD).chmod((folder / "config.json").stat().st_mode)  # safetensors lets only the owner read


def open_reward(folder: Path, manifest: Manifest, **options: Any) -> Reward:
    """Return the reward model of a bundle whose files were verified, frozen.

    Args:
        folder: The bundle.
        manifest: What it says about itself.
        options: What ``open_vision_language`` takes.

    Raises:
        BundleError: a base that is another than the bundle's, or a head that does not fit it.
    """
    from safetensors.torch import load_file

    cut = LanguageCut(open_vision_language(folder, manifest, **options))
    tail = RewardTail(LanguageTail(cut))
    state: dict[str, torch.Tensor] = load_file(folder / HEAD) if (folder / HEAD).is_file() else {}
    found = state.get("weight")
    if found is None or found.shape != tail.weight.shape:
        shape = "nothing" if found is None else f"shape {tuple(found.shape)}"
        what = f"{HEAD} holds {shape}, and the model's states have {tail.weight.shape[0]} numbers"
        raise BundleError.of(str(folder), what, "copy the folder again, or make the bundle again")
    tail.weight.data.copy_(found)
    return Reward(cut, tail.requires_grad_(False).eval())

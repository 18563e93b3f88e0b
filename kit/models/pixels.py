"""From pictures to the pixels that a vision tower takes, by settings that are JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kit.errors import ModelError


class Pixels:
    """An image processor in Hugging Face manners.

    Args:
        settings: ``{"open_clip": …}`` as open_clip's ``PreprocessCfg`` takes them, or ``{"transformers": …}`` as an
            image processor of transformers saves itself.

    Raises:
        ModelError: settings of neither kind, or an image processor that transformers does not know.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._one = _transform(self.settings)

    def one(self, image: Image.Image) -> Tensor:
        """Return a picture's pixels, shape (3, height, width), float32."""
        return self._one(image)

    def __call__(self, images: Sequence[Image.Image], **_: Any) -> Any:
        """Return ``pixel_values`` of shape (n, 3, height, width), float32."""
        from transformers import BatchFeature

        return BatchFeature({"pixel_values": torch.stack([self.one(image) for image in images])})

    def to_json_string(self) -> str:
        """Return the settings as JSON, sorted."""
        return json.dumps(self.settings, sort_keys=True)


def _transform(settings: Mapping[str, Any]) -> Any:
    if "open_clip" in settings:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return image_transform_v2(PreprocessCfg(**settings["open_clip"]), is_train=False)
    values = settings.get("transformers", {})
    import transformers

    kind = getattr(transformers, str(values.get("image_processor_type")), None)
    if kind is None:
        what = f"names no image processor: {values.get('image_processor_type')!r}"
        raise ModelError.of("preprocessing", what, "load the vision tower again")
    processor = kind.from_dict(values)

    def one(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels

    return one

"""A vision tower and a language model that never met, with a projector between them: one Hugging Face model.

The picture enters in one of three ways:

- as a prefix of the input embeddings (entry layer 0; LLaVA, arXiv:2304.08485): every layer above must be trained
  through, and only vision can be computed once;
- as tokens at a higher layer: the layers below read text alone, so for each distinct text they are computed once;
- by adaption prompts inside the attention of the top layers (LLaMA-Adapter, arXiv:2303.16199; see
  ``kit.adapters.llama_adapter``): no token is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from kit.errors import ModelError
from kit.models.halves import lower, trunk, upper
from kit.models.projector import Projector
from kit.models.prompts import PromptedAttention
from kit.models.vision_tower import VisionTower


class StitchedConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """What a stitched model is made of.

    Args:
        language: The language model's own configuration, with its ``model_type``.
        vision: Settings of the vision tower; see ``VisionTower``.
        projector: Settings of the projector; see ``Projector``.
        entry_layer: The first decoder layer that sees the picture; 0 for a prefix of the input embeddings.
        image_token_id: The token that stands for a piece of the picture in ``input_ids``.
        prompted: The picture enters by adaption prompts; its token in ``input_ids`` only says that there is one.
    """

    model_type = "kit-stitched"

    def __init__(
        self,
        *,
        language: dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        projector: dict[str, Any] | None = None,
        entry_layer: int = 0,
        image_token_id: int = 0,
        prompted: bool = False,
        **rest: Any,
    ) -> None:
        self.language = language or {}
        self.vision = vision or {}
        self.projector = projector or {}
        self.entry_layer = entry_layer
        self.image_token_id = image_token_id
        self.prompted = prompted
        super().__init__(**rest)

    def get_text_config(self, *_: Any, **__: Any) -> PretrainedConfig:
        """Return the language model's configuration."""
        return language_config(self.language)


def language_config(values: dict[str, Any]) -> PretrainedConfig:
    """Return a language model's configuration from its values."""
    from transformers import AutoConfig

    rest = dict(values)
    made: PretrainedConfig = AutoConfig.for_model(rest.pop("model_type"), **rest)
    return made


@dataclass(frozen=True)
class _Layout:
    """Where pictures are in a batch: among the tokens given (b, t), and among all (b, past + t); and what is there."""

    here: Tensor
    image_mask: Tensor
    mask: Tensor


class StitchedModel(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """The stitched model.

    Args:
        config: What it is made of.
        vision_tower: A tower that exists already; built from the configuration by default.
        language_model: Likewise.
    """

    config_class = StitchedConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(
        self, config: StitchedConfig, vision_tower: VisionTower | None = None, language_model: Any = None
    ) -> None:
        super().__init__(config)
        self.vision_tower = vision_tower if vision_tower is not None else VisionTower(config.vision)
        self.projector = Projector(**config.projector)
        self.language_model = (
            language_model
            if language_model is not None
            else AutoModelForCausalLM.from_config(language_config(config.language))  # type: ignore[no-untyped-call]
        )
        if not 0 <= config.entry_layer < len(trunk(self.language_model).layers):
            layers = len(trunk(self.language_model).layers)
            what = f"{config.entry_layer}, but the language model has layers 0 to {layers - 1}"
            raise ModelError.of("entry_layer", what, "choose one of these")
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: Any) -> None:
        """Leave weights alone: each part initialises its own."""

    def get_input_embeddings(self) -> Any:
        """Return the language model's embeddings."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def project(self, pixel_values: Tensor) -> Tensor:
        """Return pictures as the language model reads them, shape (n, tokens, width), for pixels (n, 3, h, w)."""
        with torch.no_grad():
            features = self.vision_tower(pixel_values)
        projected: Tensor = self.projector(features)
        return projected

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        picture_tokens: Tensor | None = None,
        image_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, and the loss where labels are given.

        Args:
            input_ids: Token ids with the image token for each piece of a picture, shape (b, t).
            attention_mask: 1 for tokens, past ones included, shape (b, past + t).
            pixel_values: The pictures of the rows that have one, in order, shape (n, 3, h, w).
            picture_tokens: The same projected, one entry per row of the batch, shape (b, m, width).
            image_mask: Which tokens, past ones included, are a picture's; found in ``input_ids`` by default.
            labels: Wanted token ids, -100 where nothing is asked; shifted here; shape (b, t).
            past_key_values: What came before.
            cache: The same, as transformers calls it from 5.24 on.
            use_cache: Return it for the next call.
            logits_to_keep: Only the last so many positions, or the positions in a tensor; 0 for all.

        Raises:
            ModelError: image tokens that are not those of the pictures, or past ones that are not told.
        """
        past = past_key_values if cache is None else cache
        past = DynamicCache() if use_cache and past is None else past
        hidden = self.states(
            input_ids, attention_mask, pixel_values=pixel_values, picture_tokens=picture_tokens,
            image_mask=image_mask, past=past,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss, logits, past)

    def states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, pixel_values: Tensor | None = None,
        picture_tokens: Tensor | None = None, image_mask: Tensor | None = None, past: Any = None,
    ) -> Tensor:  # fmt: skip
        """Return the hidden states that the head reads, shape (b, t, width); see ``forward``."""
        here = input_ids == self.config.image_token_id
        image_mask = self._told(here, image_mask, past)
        mask = torch.ones_like(image_mask) if attention_mask is None else attention_mask.bool()
        if picture_tokens is None and pixel_values is not None:
            picture_tokens = by_row(self.project(pixel_values), image_mask)
        self._check_places(here, picture_tokens)
        # A token that was added for pictures has no embedding, and none is read.
        hidden = self.get_input_embeddings()(input_ids.masked_fill(here, 0))
        return self._through(hidden, _Layout(here, image_mask, mask), picture_tokens, past)

    def _told(self, here: Tensor, image_mask: Tensor | None, past: Any) -> Tensor:
        seen = past.get_seq_length() if past is not None else 0
        if image_mask is None and not seen:
            return here
        if image_mask is None or image_mask.shape[1] != seen + here.shape[1]:
            what = f"must be given for all {seen + here.shape[1]} tokens, the {seen} past ones included"
            raise ModelError.of("image_mask", what, "give it, or use generate, which does")
        return image_mask

    def _check_places(self, here: Tensor, pictures: Tensor | None) -> None:
        counts = here.sum(1)
        own = 1 if self.config.prompted else self.config.projector["tokens"]
        wrong = (counts != own) & (counts != 0)
        if wrong.any():
            what = f"holds {int(counts[wrong][0])} image tokens in a row, and a picture has {own}"
            raise ModelError.of("input_ids", what, "let the processor make them, and cut none off")
        if pictures is None and counts.any():
            what = "none is given, and there are image tokens"
            raise ModelError.of("pixel_values", what, "give one picture to each row that has image tokens")

    def _through(self, hidden: Tensor, layout: _Layout, pictures: Tensor | None, past: Any) -> Tensor:
        text = layout.mask & ~layout.image_mask
        if self.config.prompted:
            rows = layout.image_mask.any(1)
            shown = None if pictures is None else pictures * rows[:, None, None]
            return upper(self.language_model, 0)(hidden, text, past, shown=shown)
        entry, here = self.config.entry_layer, layout.here
        if entry:
            hidden = self._below(hidden, here, text, past)
        if pictures is not None and here.any():
            hidden = hidden.masked_scatter(here[..., None], pictures[here.any(1)].to(hidden.dtype))
        return upper(self.language_model, entry)(hidden, layout.mask, past)

    def _below(self, hidden: Tensor, here: Tensor, text: Tensor, past: Any) -> Tensor:
        below = lower(self.language_model, self.config.entry_layer)
        if past is not None or not bool((here == here[:1]).all()):
            return below(hidden, text, past)
        # All pictures stand at the same places, as in training: nothing is spent on places that hold no text.
        out = hidden.clone()
        out[:, ~here[0]] = below(hidden[:, ~here[0]], text[:, ~here[0]])
        return out

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Write the whole model as Hugging Face models are written.

        Raises:
            ModelError: it has adapters on it, whose weights ``from_pretrained`` would leave out.
        """
        if any(isinstance(one, PromptedAttention) or hasattr(one, "peft_config") for one in self.modules()):
            what = "has adapters on it, which would not be found again"
            raise ModelError.of(type(self).__name__, what, "save it with save_bundle, or merge LoRA first")
        super().save_pretrained(*args, **kwargs)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return generated token ids, as every Hugging Face model does; the picture is encoded once.

        The image token is never generated: it would be read as a piece of a picture that is not there.
        """
        settings = kwargs.get("generation_config") or self.generation_config
        others = kwargs.get("suppress_tokens") or getattr(settings, "suppress_tokens", None) or ()
        kwargs["suppress_tokens"] = [*others, self.config.image_token_id]
        ids = kwargs.get("input_ids") if inputs is None else inputs
        pixels = kwargs.pop("pixel_values", None)
        if pixels is not None and ids is not None:
            kwargs["picture_tokens"] = by_row(self.project(pixels), ids == self.config.image_token_id)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: Any = None, attention_mask: Tensor | None = None, *,
        picture_tokens: Tensor | None = None, use_cache: bool | None = None, cache: Any = None, **_: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Return what ``forward`` takes for the next step: tokens that the cache has not seen."""
        past = past_key_values if cache is None else cache
        seen = past.get_seq_length() if past is not None else 0
        return {
            "input_ids": input_ids[:, seen:],
            "image_mask": input_ids == self.config.image_token_id,
            "attention_mask": attention_mask,
            "picture_tokens": picture_tokens,
            "past_key_values": past,
            "use_cache": use_cache,
            "logits_to_keep": 1,
        }


def by_row(pictures: Tensor, image_mask: Tensor) -> Tensor:
    """Return one entry per row of a batch, zeros where a row has no picture.

    Args:
        pictures: The pictures of the rows that have one, in order, shape (n, m, width).
        image_mask: Which tokens are a picture's, shape (b, t).

    Raises:
        ModelError: another number of pictures than of rows with image tokens.
    """
    rows = image_mask.any(1)
    if int(rows.sum()) != len(pictures):
        what = f"{len(pictures)} pictures for {int(rows.sum())} rows with image tokens"
        raise ModelError.of("pixel_values", what, "give one picture to each row that has image tokens")
    out = pictures.new_zeros(len(image_mask), *pictures.shape[1:])
    out[rows] = pictures
    return out

"""Gradient checkpointing: memory for time."""

from __future__ import annotations

from typing import Any

from torch import nn

from kit.errors import ModelError


def recompute_activations(model: nn.Module, *, on: bool = True) -> None:
    """Keep only what enters each layer and compute the rest again on the way back, with the same gradients.

    Costs about a third more time and saves all but one layer's activations (arXiv:1604.06174). It is the kind that
    torch calls non-reentrant, which reaches adapters above frozen embeddings without gradients for the inputs.
    transformers and PEFT turn those on nevertheless, and gradients then run through every frozen layer below the
    lowest adapter; here they are off.

    Args:
        model: A model of transformers, bare or in PEFT's wrapper.
        on: False to keep everything again.

    Raises:
        ModelError: the model has no such layers.
    """
    bare: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(bare, "supports_gradient_checkpointing", False):
        what = f"{type(bare).__name__} cannot compute its activations again"
        raise ModelError.of("gradient checkpointing", what, "lower batch_size, and raise accumulate instead")
    # transformers renamed it, and warns at the old name
    name = "activation" if hasattr(bare, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(bare, f"{name}_checkpointing_enable")(**{f"{name}_checkpointing_kwargs": {"use_reentrant": False}})
        if hasattr(bare, "_require_grads_hook"):
            bare.disable_input_require_grads()
    else:
        getattr(bare, f"{name}_checkpointing_disable")()

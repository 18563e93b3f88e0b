"""A tiny stitched model with an adapter that changes what it says."""

import torch
from stitched_models import tiny_stitch

from kit.adapters.language import adapt_language


def adapted(vision, language, **options):
    """A stitched model with an adapter that changes what it says."""
    model = tiny_stitch(vision, language, **options)
    adapt_language(model, rank=4)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model

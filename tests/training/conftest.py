"""Dual encoders, tiny vision-language models and tiny stitched ones, made once."""

from dual_encoders import one_thread, stitched, tiny, tiny_folder
from stitched_models import tiny_language, tiny_vision
from tiny_models import tiny_folders, tiny_model

__all__ = [
    "one_thread",
    "stitched",
    "tiny",
    "tiny_folder",
    "tiny_folders",
    "tiny_language",
    "tiny_model",
    "tiny_vision",
]

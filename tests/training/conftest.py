"""Dual encoders and tiny vision-language models, made once."""

from dual_encoders import one_thread, stitched, tiny, tiny_folder
from tiny_models import tiny_folders, tiny_model

__all__ = ["one_thread", "stitched", "tiny", "tiny_folder", "tiny_folders", "tiny_model"]

"""Dual encoders, made once."""

from dual_encoders import stitched, tiny, tiny_folder

__all__ = ["stitched", "tiny", "tiny_folder"]

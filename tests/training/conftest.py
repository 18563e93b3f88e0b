"""Dual encoders, made once."""

from dual_encoders import one_thread, stitched, tiny, tiny_folder

__all__ = ["one_thread", "stitched", "tiny", "tiny_folder"]

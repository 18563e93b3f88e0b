"""Voting pages and demos that run in this process, and a real PostgreSQL."""

from dual_encoders import one_thread
from postgres_server import postgres
from small_bundles import clip_demo, seeing_demo, tiny_clip, tiny_seeing
from voting_study import port, serving

__all__ = ["clip_demo", "one_thread", "port", "postgres", "seeing_demo", "serving", "tiny_clip", "tiny_seeing"]

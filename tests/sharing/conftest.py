"""Voting pages that run in this process, and a real PostgreSQL."""

from postgres_server import postgres
from voting_study import port, serving

__all__ = ["port", "postgres", "serving"]

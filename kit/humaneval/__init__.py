"""Blind human comparisons: the protocol, the votes, and what the votes say."""

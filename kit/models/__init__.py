"""Frozen towers: put together, cut at the first trained layer, and computed once."""

"""Rows with stable ids and digests, from one source string."""

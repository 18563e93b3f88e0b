"""Notebooks as checked, reproducible runs."""

"""Smaller copies of a bundle's model, and proof that they are still the same model."""

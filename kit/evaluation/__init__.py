"""Numbers with intervals and baselines."""

"""Open models and data by name: the catalogue, the cache, and one grammar for every source string."""

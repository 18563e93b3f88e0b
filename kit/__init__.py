"""kit: a Jupyter-first multimodal experimentation kit."""

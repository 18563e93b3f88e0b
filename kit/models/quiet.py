"""transformers without its own progress bars, which would be outputs of a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' own bars for a while."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with patch.object(gguf, "tqdm", logging.tqdm, create=True):  # the one place that asks nobody
            yield
    finally:
        if shown:
            logging.enable_progress_bar()

"""Loading without the progress bars of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import transformers
from transformers import modeling_gguf_pytorch_utils


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the progress bars of transformers: whoever waits for a model is told so by the stage that loads it."""
    logging = transformers.utils.logging
    # The reader of GGUF files makes its bar itself, and asks nobody whether one is wanted.
    reader: Any = modeling_gguf_pytorch_utils
    bars, own = logging.is_progress_bar_enabled(), reader.tqdm
    logging.disable_progress_bar()
    reader.tqdm = partial(own, disable=True)
    try:
        yield
    finally:
        reader.tqdm = own
        if bars:
            logging.enable_progress_bar()

"""`python -m tests.families [TYPE …]`: try every model type, or some, and write docs/families.md. Exit code 1: wrong."""

import logging
import sys
import time
import warnings

import torch
import transformers

from tests.families.small_models import model_types
from tests.families.table import Page, read_page, try_type, write_page
from tests.families.trial import Outcome

warnings.filterwarnings("ignore")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
logging.disable(logging.WARNING)
torch.set_num_threads(1)


def main(asked: list[str]) -> int:
    """Try, tell each row as it comes, write the page."""
    page = read_page() if asked else Page({}, {})
    started, wrong = time.perf_counter(), 0
    for model_type in asked or model_types():
        found = try_type(model_type)
        page.outcomes.pop(model_type, None)
        page.left_out.pop(model_type, None)
        if isinstance(found, Outcome):
            page.outcomes[model_type] = found
            wrong += found.is_wrong
            print(*vars(found).values(), sep=" | ", flush=True)
        else:
            page.left_out[model_type] = found
            print(model_type, found, sep=" | ", flush=True)
    minutes = f"{(time.perf_counter() - started) / 60:.0f} minutes"
    write_page(page, minutes if not asked else "about twenty minutes")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m tests.families [TYPE …]`: try all model types, or some; write docs/families.md. Exit code 1: wrong."""

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.families.small_models import model_types
from tests.families.table import Page, quietly_on_one_thread, read_page, try_type, write_page
from tests.families.trial import Outcome

# Each with a few hundred megabytes, most of it transformers.
_WORKERS = min(os.cpu_count() or 1, 4)


def main(asked: list[str]) -> int:
    """Try, tell each row as it comes, write the page."""
    page = read_page() if asked else Page({}, {})
    types = asked or model_types()
    started, wrong = time.perf_counter(), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_WORKERS, mp_context=context, initializer=quietly_on_one_thread) as workers:
        for model_type, found in zip(types, workers.map(try_type, types), strict=True):
            page.outcomes.pop(model_type, None)
            page.left_out.pop(model_type, None)
            if isinstance(found, Outcome):
                page.outcomes[model_type] = found
                wrong += found.is_wrong
                print(*vars(found).values(), sep=" | ", flush=True)
            else:
                page.left_out[model_type] = found
                print(model_type, found, sep=" | ", flush=True)
    write_page(page, None if asked else (time.perf_counter() - started) / 60)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

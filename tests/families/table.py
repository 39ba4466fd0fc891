"""The table of docs/families.md: one row a model type, made by trying it, read again by the tests."""

import logging
import re
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
import transformers as hf

from storage.errors import UserError
from tasks.embedding.description import text_config
from tests.families.small_models import LAYERS, small_config, small_model
from tests.families.trial import CUT, LENGTHS, Outcome, try_model

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
NOT_MADE = "not made small"
NO_TEXT = "reads no text"

_HEADER = ("model type", "float32", "bfloat16", "final norm", f"cut after layer {CUT} of {LAYERS}")
_INTRO = f"""# Model families

Which model types of transformers {hf.__version__} a sweep takes, and what it makes of each: a small random model of
every type that has a headless model, tried by the product's own way and held against plain transformers. This page is
made by `make families` (`python -m tests.families`, {{minutes}}); `python -m tests.families TYPE …` makes single rows
again, and a test of the normal suite compares some of them.

{len(LENGTHS)} texts of {min(LENGTHS)} to {max(LENGTHS)} tokens go through together, two of them with the padding token
among their words, two batches at a time; plain transformers reads each alone, in a model that has seen no other text.
Compared are the poolings mean, last and first at every layer.

- **equal**: in float32 to within 1e-4 of a vector's length; in bfloat16 no layer and no text is further from float32
  than three times what plain transformers in bfloat16 is.
- **refused**: in words, with the reason given here, before a number is made.
- **float32**: `--dtype auto` computes it in float32 and says so; `--dtype bfloat16` is refused, or warned of where a
  router chooses experts.
- **final norm**: the part that makes the last layer of the last block's output; `none` where a block ends in its own.
  It is what the norm state `final_norm` applies, and with it what an export ends in.
- **cut**: `layerscout export` in the middle: the smaller model, loaded as anybody would, gives the layer's embeddings,
  or the export is refused.

Families with tests of their own (`tasks/embedding/families.py`) run with texts of all lengths in one batch. Of every
other one a batch holds texts of one length, and each time such a model is loaded its layers are compared with plain
transformers' on six texts, in the dtype that will run. A model that sees or hears too is used for its text model, an
encoder-decoder for its encoder.

"""


@dataclass(frozen=True)
class Page:
    """The rows by model type, and the types that have none: read no text, or are not made small."""

    outcomes: dict[str, Outcome]
    left_out: dict[str, str]


def try_type(model_type: str) -> Outcome | str:
    """The row of a type, or why it has none."""
    try:
        config = small_config(model_type)
        text_config_of(config)
        model = small_model(config)
    except UserError as error:
        return f"{NO_TEXT}: {error}"
    except Exception as error:  # of a stranger's code, given sizes that it was not made for
        return f"{NOT_MADE}: {type(error).__name__}"
    try:
        return try_model(model_type, model)
    except Exception as error:  # what no person should see: the page must say so
        return Outcome(model_type, f"CRASH: {type(error).__name__}: {error}", "–", "–", "–")


def quietly_on_one_thread() -> None:
    """In each worker: several threads would wait for each other at every operation of a small model."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def text_config_of(config: hf.PretrainedConfig) -> None:
    """`UserError` for a model that reads no text, as a sweep has it."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        text_config(Path(folder), "it")


def read_page() -> Page:
    """What the committed page says."""
    outcomes, left_out = {}, {}
    for line in _page_text().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            cells[0] = cells[0].strip("`")
            outcomes[cells[0]] = Outcome(*cells)
        for reason in (NO_TEXT, NOT_MADE):
            if line.startswith(f"- {reason}"):
                left_out |= {name.strip("`"): reason for name in line.split(": ", 1)[1].split(", ")}
    return Page(outcomes, left_out)


def write_page(page: Page, minutes: float | None) -> None:
    """Write the page anew; `minutes` is what all of its rows took, None where only some were made."""
    took = re.search(r"families`, (.*?)\);", _page_text())
    told = (
        f"{minutes:.0f} minutes on two cores" if minutes is not None else took[1] if took else "half an hour"
    )
    rows = sorted(page.outcomes.values(), key=lambda outcome: outcome.model_type)
    lines = [f"| {' | '.join(_HEADER)} |", "|" + "---|" * len(_HEADER)]
    lines += [
        f"| `{row.model_type}` | {' | '.join(_cell(each) for each in astuple(row)[1:])} |" for row in rows
    ]
    counts = (
        f"Of {len(rows)} types, {_count(rows, 'float32', 'equal')} are equal in float32 and "
        f"{_count(rows, 'float32', 'refused')} refused; in bfloat16 {_count(rows, 'bfloat16', 'equal')} are equal, "
        f"{_count(rows, 'bfloat16', 'float32')} run in float32. {_count(rows, 'cut', 'equal')} can be cut.\n\n"
    )
    without = "".join(
        f"- {reason} ({len(names)}): {', '.join(f'`{name}`' for name in names)}\n"
        for reason in (NO_TEXT, NOT_MADE)
        if (names := sorted(name for name, why in page.left_out.items() if why.startswith(reason)))
    )
    PAGE.write_text(
        _INTRO.format(minutes=told) + counts + "\n".join(lines) + "\n\nWithout a row:\n\n" + without,
        encoding="utf-8",
    )


def _page_text() -> str:
    return PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split()) or "–"


def _count(rows: Iterable[Outcome], column: str, begins: str) -> int:
    return sum(getattr(row, column).startswith(begins) for row in rows)

"""Models cut after a layer against the whole model: `run()` measures how near a cut comes to the ideal speed-up.

Whole and cut model run forward in turns on one batch, as anybody loads them: AutoModel in float32. A cut after layer k
of n would ideally be n/k times as fast; tokens are looked up and the final norm is applied by both.
"""

import tempfile
from pathlib import Path

from benchmarks.bars import Bar, bar
from benchmarks.scoring import emotion
from tasks.embedding.model import resolve_model
from tasks.exporting.cut import save_cut
from tasks.exporting.exported_check import load_plain, measure_rates

# A quarter of the depth and more: below it, what every model pays once is a larger share.
CUTS = {"wheel:smollm2-135m": (8, 15, 22), "wheel:minilm-l6": (2, 3, 4)}
TEXTS = 16
MAX_LENGTH = 128
OF_IDEAL = 0.85


def run() -> list[Bar]:
    """All bars of the export; about a minute on two cores."""
    texts = emotion("test").head(TEXTS)["text"].to_list()
    bars = []
    for spec, layers in CUTS.items():
        model = resolve_model(spec)
        whole, tokenizer = load_plain(Path(model.folder))
        for layer in layers:
            with tempfile.TemporaryDirectory() as scratch:
                save_cut(Path(model.folder), layer, Path(scratch))
                cut, _ = load_plain(Path(scratch))
                rates = measure_rates(whole, cut, tokenizer, texts, MAX_LENGTH)
            faster, ideal = rates.cut / rates.whole, model.layers / layer
            bars.append(
                bar(
                    f"{spec} cut after layer {layer} of {model.layers}: times as fast, over the ideal",
                    faster,
                    ideal,
                    faster / ideal,
                    OF_IDEAL,
                    faster >= OF_IDEAL * ideal,
                    {"cut_tokens_per_second": rates.cut, "whole_tokens_per_second": rates.whole},
                )
            )
    return bars

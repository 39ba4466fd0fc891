"""Whether two texts are of one class, told from both as one text and from the features of two:
python -m study.text_pairs DATA_ROOT STORAGE

DATA_ROOT holds labelled sets; pairs are drawn of their train texts for train and of their test texts for test, half of
them of one class.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

import layerscout
from storage.layout import Layout
from storage.staged import read_staged
from tasks.choosing.comparison import compare

SETS = ("clinc150", "trec6")
MODEL = "wheel:minilm-l6"
TRAIN, TEST = 2_000, 1_000


def drawn(rows: pl.DataFrame, pairs: int, seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of other rows' texts, every second one of one class, and whether they are."""
    rng = np.random.default_rng(seed)
    texts, labels = rows["text"].to_list(), rows["label"].to_numpy()
    counts = np.bincount(labels)
    found: list[tuple[str, str]] = []
    told: list[str] = []
    while len(found) < pairs:
        one = int(rng.integers(len(texts)))
        same = len(found) % 2 == 0
        others = np.flatnonzero((labels == labels[one]) == same)
        if not same or counts[labels[one]] > 1:
            other = int(rng.choice(others[others != one]))
            found.append((texts[one], texts[other]))
            told.append("same" if same else "other")
    return found, told


def right(answer: layerscout.Answer) -> NDArray[np.bool_]:
    """Whether the probe of the answer's layer was right on each test row, [N]."""
    part = Layout.part(answer.pooling, answer.norm_state, answer.layer)
    rows = read_staged(answer.layout, answer.run_id, "prediction", part).sort("row_id")
    return (rows["label"] == rows["predicted"]).to_numpy()


def main(data_root: Path, storage: str) -> None:
    """Print each answer, and the features against the joined texts."""
    for name in SETS:
        train, test = (
            drawn(pl.read_parquet(data_root / name / f"{split}.parquet"), pairs, seed)
            for seed, (split, pairs) in enumerate((("train", TRAIN), ("test", TEST)))
        )
        answers = {
            text_pairs: layerscout.sweep(
                MODEL, *train, test=test, name=name, text_pairs=text_pairs, storage=storage, together=1
            )
            for text_pairs in ("joined", "features")
        }
        for text_pairs, answer in answers.items():
            print(f"{name} {text_pairs}: {answer}")
            print(answer.tables["baseline"].select("name", "accuracy").rows())
        print(compare(right(answers["features"]), right(answers["joined"])))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

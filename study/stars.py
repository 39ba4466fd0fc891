"""The stars of SST-5 told as numbers and as classes: python -m study.stars DATA_ROOT STORAGE

DATA_ROOT holds `sst5`, 8,544 train and 2,210 test sentences of film reviews from very negative to very positive.
"""

import sys
from pathlib import Path

import polars as pl

import layerscout

STARS = {"very negative": 1, "negative": 2, "neutral": 3, "positive": 4, "very positive": 5}
MODELS = ("wheel:minilm-l6", "wheel:smollm2-135m")
TRAIN, TEST = 3_000, 2_000
SHOWN = ("accuracy", "r2", "spearman", "mean_absolute_error")


def main(data_root: Path, storage: str) -> None:
    """Print each answer, and what its probe came to."""
    splits = {name: pl.read_parquet(data_root / "sst5" / f"{name}.parquet") for name in ("train", "test")}
    (x, y), test = (
        (rows["text"].to_list(), [STARS[name] for name in rows["label_name"]])
        for rows in (splits["train"].head(TRAIN), splits["test"].head(TEST))
    )
    for model in MODELS:
        for task in ("regression", "single-label"):
            answer = layerscout.sweep(model, x, y, test=test, task=task, storage=storage, together=1)
            of_answer = (pl.col("layer") == answer.layer) & (pl.col("pooling") == answer.pooling)
            print(f"{model} {task}: {answer}")
            print(answer.tables["probe"].filter(of_answer).select(SHOWN).to_dicts())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

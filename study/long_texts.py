"""Abstracts longer than a window, cut and read whole: python -m study.long_texts DATA_ROOT STORAGE

DATA_ROOT holds `medical_abstracts`, 1,801 train and 969 test abstracts of five conditions, mostly of 150 to 500 tokens.
"""

import sys
from pathlib import Path

import polars as pl

import layerscout

# Of each model the poolings, and how many train and test rows.
MODELS = {
    "wheel:minilm-l6": (("mean",), 1_000, 1_000),
    "wheel:smollm2-135m": (("mean_tail", "last"), 500, 500),
}
ASKED: tuple[tuple[int | str, str], ...] = ((64, "cut"), (128, "cut"), (128, "split"), ("auto", "cut"))


def main(data_root: Path, storage: str) -> None:
    """Print a line a model and way: its answer, its accuracy with the 95 % interval, its tokens and its seconds."""
    splits = {
        name: pl.read_parquet(data_root / "medical_abstracts" / f"{name}.parquet")
        for name in ("train", "test")
    }
    for model, (pooling, train, test) in MODELS.items():
        (x, y), of_test = (
            (rows["text"].to_list(), rows["label_name"].to_list())
            for rows in (splits["train"].head(train), splits["test"].head(test))
        )
        for length, long_texts in ASKED:
            answer = layerscout.sweep(
                model,
                x,
                y,
                test=of_test,
                max_length=length,
                long_texts=long_texts,
                pooling=pooling,
                metric="cosine",
                token_budget=2_048,
                together=1,
                attention_rows=0,
                name="abstracts",
                storage=storage,
            )
            of_answer = (pl.col("layer") == answer.layer) & (pl.col("pooling") == answer.pooling)
            probe = answer.tables["probe"].filter(of_answer).row(0, named=True)
            embedded = answer.tables["embedding_set"].row(0, named=True)
            print(
                f"{model} {embedded['max_length']} {long_texts}: {answer.pooling}, layer {answer.layer}, "
                f"{probe['accuracy']:.4f} ({probe['accuracy_low']:.4f} to {probe['accuracy_high']:.4f}), "
                f"cut {embedded['truncated_share']:.3f}, split {embedded['split_share']:.3f}, "
                f"{embedded['tokens']:,} tokens, {embedded['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
